//! Reads a request: bounded in length and depth before a parser sees it, and every value in range.

use dataplane_api::message::{
    CAPTURE_BYTES_MAX, CAPTURE_PACKETS_MAX, CAPTURE_SECONDS_MAX, CAPTURED_PAGE_MAX, CONNS_PAGE_MAX,
};

use super::{
    CONFIRM, Code, DEPTH_MAX, EVENTS_MAX, EVENTS_WAIT_MAX_MS, Failure, PLAN_MAX, REQUEST_MAX,
    SECONDS_MAX, VERSION, Verb,
};

/// Reads one request, without its newline.
///
/// # Errors
/// What is wrong with it, for the client.
pub fn parse(line: &[u8]) -> Result<Verb, Failure> {
    let bad = |message: String| Failure::new(Code::BadRequest, message);
    if line.len() >= PLAN_MAX {
        return Err(bad(format!("request is longer than {PLAN_MAX} bytes")));
    }
    if too_deep(line) {
        return Err(bad(format!("request is nested deeper than {DEPTH_MAX}")));
    }
    let mut request: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(line).map_err(|e| bad(format!("not a JSON object: {e}")))?;
    if let Some(version) = request.remove("version")
        && version != VERSION
    {
        let message = format!(
            "this xvip-control speaks version {VERSION} of the protocol, \
             the client speaks {version}: use the xvip of the same release"
        );
        return Err(Failure::new(Code::Version, message));
    }
    let verb: Verb = serde_json::from_value(serde_json::Value::Object(request))
        .map_err(|e| bad(format!("not a request: {e}")))?;
    if line.len() >= REQUEST_MAX && !matches!(verb, Verb::Plan { .. }) {
        return Err(bad(format!("request is longer than {REQUEST_MAX} bytes")));
    }
    verb.fault().map_or(Ok(verb), |fault| Err(bad(fault)))
}

/// Looks at brackets outside strings, before a parser with a stack of its own sees them.
fn too_deep(line: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

impl Verb {
    /// What is out of range in it.
    fn fault(&self) -> Option<String> {
        let seconds = |key, value: Option<u32>| {
            let bad = value.filter(|s| !(1..=SECONDS_MAX).contains(s))?;
            Some(format!("`{key}` is {bad}: expected 1 to {SECONDS_MAX} seconds"))
        };
        match self {
            Self::Conns { limit, .. } if !(1..=CONNS_PAGE_MAX).contains(limit) => {
                Some(format!("`limit` is {limit}: expected 1 to {CONNS_PAGE_MAX}"))
            }
            Self::Events { limit, .. } if !(1..=EVENTS_MAX).contains(limit) => {
                Some(format!("`limit` is {limit}: expected 1 to {EVENTS_MAX}"))
            }
            Self::Events { wait_ms, .. } if *wait_ms > EVENTS_WAIT_MAX_MS => {
                Some(format!("`wait_ms` is {wait_ms}: expected 0 to {EVENTS_WAIT_MAX_MS}"))
            }
            Self::Reload { confirm_s: Some(s) } if !CONFIRM.contains(s) => Some(format!(
                "`confirm_s` is {s}: expected {} to {} seconds",
                CONFIRM.start(),
                CONFIRM.end()
            )),
            Self::Capture { packets_max, .. }
                if !(1..=CAPTURE_PACKETS_MAX).contains(packets_max) =>
            {
                Some(format!("`packets_max`: expected 1 to {CAPTURE_PACKETS_MAX}"))
            }
            Self::Capture { seconds, .. } if !(1..=CAPTURE_SECONDS_MAX).contains(seconds) => {
                Some(format!("`seconds`: expected 1 to {CAPTURE_SECONDS_MAX}"))
            }
            Self::Capture { bytes, .. } if !(64..=CAPTURE_BYTES_MAX).contains(bytes) => {
                Some(format!("`bytes`: expected 64 to {CAPTURE_BYTES_MAX}"))
            }
            Self::Captured { limit } if !(1..=CAPTURED_PAGE_MAX).contains(limit) => {
                Some(format!("`limit`: expected 1 to {CAPTURED_PAGE_MAX}"))
            }
            Self::Drain { deadline_s: None, then: Some(_), .. } => {
                Some("`then` says what happens at the deadline: give `deadline_s` too".to_owned())
            }
            Self::Drain { deadline_s, for_s, .. } => {
                seconds("deadline_s", *deadline_s).or_else(|| seconds("for_s", *for_s))
            }
            Self::Disable { for_s, .. } | Self::Weight { for_s, .. } => seconds("for_s", *for_s),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::CONNS_PAGE_DEFAULT;
    use super::*;

    fn code(line: &str) -> Code {
        parse(line.as_bytes()).unwrap_err().code
    }

    #[test]
    fn requests_are_read_and_bad_ones_are_named() {
        assert_eq!(parse(br#"{"verb":"status"}"#), Ok(Verb::Status {}));
        assert_eq!(parse(br#"{"version":1,"verb":"hello"}"#), Ok(Verb::Hello {}));
        let conns = parse(br#"{"verb":"conns","filter":{"client":"2001:db8::1"}}"#).unwrap();
        let Verb::Conns { cursor: 0, limit: CONNS_PAGE_DEFAULT, filter } = conns else { panic!() };
        assert_eq!(filter.client, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(code(r#"{"verb":"status","version":2}"#), Code::Version);
        assert_eq!(code(r#"{"verb":"status","version":"1"}"#), Code::Version);
        for bad in [
            "",
            "null",
            "[]",
            r#"{"verb":"frobnicate"}"#,
            r#"{"verb":"status","colour":"red"}"#,
            r#"{"verb":"conns","limit":0}"#,
            r#"{"verb":"conns","limit":1001}"#,
            r#"{"verb":"conns","limit":1e999999}"#,
            r#"{"verb":"conns","filter":{"client":"nobody"}}"#,
            r#"{"verb":"conns","filter":{"cilent":"::1"}}"#,
            r#"{"verb":"drain","which":{"real":"a"},"then":"reset"}"#,
            r#"{"verb":"drain","which":{"real":"a"},"deadline_s":0}"#,
            r#"{"verb":"drain","which":{"real":"a"},"deadline_s":1,"then":"explode"}"#,
            r#"{"verb":"weight","which":{"real":"a"},"weight":65536}"#,
            r#"{"verb":"disable","which":{"real":"a"},"for_s":99999999999}"#,
            r#"{"verb":"reload","confirm_s":0}"#,
        ] {
            assert_eq!(code(bad), Code::BadRequest, "{bad}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded_before_parsing() {
        let deep = "[".repeat(40_000);
        assert!(parse(deep.as_bytes()).unwrap_err().message.contains("deeper than 32"));
        let brackets_in_text = format!(r#"{{"verb":"{}"}}"#, "[".repeat(100));
        assert!(
            parse(brackets_in_text.as_bytes()).unwrap_err().message.contains("unknown variant")
        );
        let digits = format!(r#"{{"verb":"conns","limit":{}}}"#, "9".repeat(60_000));
        assert_eq!(code(&digits), Code::BadRequest);
        assert!(parse(&vec![b' '; PLAN_MAX]).unwrap_err().message.contains("longer"));
        let long = format!(r#"{{"verb":"status"{}}}"#, " ".repeat(REQUEST_MAX));
        assert!(parse(long.as_bytes()).unwrap_err().message.contains("longer than 65536"));
        let file = "# ".repeat(REQUEST_MAX);
        let plan = serde_json::json!({ "verb": "plan", "file": "x", "text": file }).to_string();
        assert!(matches!(parse(plan.as_bytes()), Ok(Verb::Plan { .. })), "a file may be long");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
