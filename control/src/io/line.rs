//! Reads newline-delimited messages of bounded length.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A whole line is in the buffer, without its newline.
    Whole,
    /// The other side closed; the buffer has what came after the last newline.
    End,
    /// More than `max` bytes without a newline.
    TooLong,
}

/// Reads up to the next newline into `buffer`. May be cancelled and called again with the same.
pub(super) async fn read(
    reader: &mut (impl AsyncBufRead + Unpin),
    buffer: &mut Vec<u8>,
    max: usize,
) -> io::Result<Line> {
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(Line::End);
        }
        let newline = chunk.iter().position(|b| *b == b'\n');
        let take = newline.unwrap_or(chunk.len());
        // The newline counts, as `LINE_MAX` and `REQUEST_MAX` say.
        if buffer.len() + take + 1 > max {
            return Ok(Line::TooLong);
        }
        buffer.extend_from_slice(&chunk[..take]);
        reader.consume(take + usize::from(newline.is_some()));
        if newline.is_some() {
            return Ok(Line::Whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_wherever_the_pieces_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for piece in 1..8 {
                let mut reader =
                    tokio::io::BufReader::with_capacity(piece, &b"abc\n\nabcd\nxy"[..]);
                let mut lines = Vec::new();
                loop {
                    let mut buffer = Vec::new();
                    let line = read(&mut reader, &mut buffer, 5).await.unwrap();
                    let end = line == Line::End;
                    lines.push((line, String::from_utf8(buffer).unwrap()));
                    if end {
                        break;
                    }
                }
                let whole = |t: &str| (Line::Whole, t.to_owned());
                let end = (Line::End, "xy".to_owned());
                assert_eq!(lines, [whole("abc"), whole(""), whole("abcd"), end]);
                let mut reader = tokio::io::BufReader::with_capacity(piece, &b"abcde\n"[..]);
                assert_eq!(read(&mut reader, &mut Vec::new(), 5).await.unwrap(), Line::TooLong);
            }
        });
    }
}
