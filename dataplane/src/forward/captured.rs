//! Forwarding while a capture runs: every packet by the long way, each looked at before and after.

use super::{Tables, long_way};
use crate::address::DeviceId;
use crate::capture::{Ends, Record, Session};
use crate::clock::Instant;
use crate::frame::{Frame, Outbox, Verdict};

/// Forwards a burst and copies what is asked for. False, and nothing done, if no capture runs.
#[cold]
pub(super) fn forward(
    frames: &mut [Frame<'_>],
    verdicts: &mut [Verdict],
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> bool {
    let Some(session) = tables.shared.capture.running(tables.now) else { return false };
    let worker = tables.local.worker as u16;
    let mut tap = Tap { outbox, session: &session, worker, now: tables.now };
    let mut spare: Option<Box<Record>> = None;
    for (frame, verdict) in frames.iter_mut().zip(verdicts) {
        spare = spare.or_else(|| session.buffer());
        if let Some(record) = &mut spare {
            record.came(frame.bytes());
        }
        let before = Ends::of(frame.bytes());
        *verdict = long_way(frame, &mut tap, tables);
        let out: &[u8] = match verdict {
            Verdict::Transmit(_) => frame.bytes(),
            Verdict::Drop(_) | Verdict::Held => &[],
        };
        if !session.wants(before, Ends::of(out)) || !session.admit(spare.is_some(), tables.now) {
            continue;
        }
        if let Some(mut record) = spare.take() {
            record.went(out);
            (record.at, record.worker) = (tables.now, worker);
            (record.rx, record.verdict) = (Some(frame.device()), *verdict);
            session.deliver(record);
        }
    }
    if let Some(record) = spare {
        session.give_back(record);
    }
    true
}

/// Copies what is sent besides.
struct Tap<'a> {
    outbox: &'a mut dyn Outbox,
    session: &'a Session,
    worker: u16,
    now: Instant,
}

impl Outbox for Tap<'_> {
    fn send(&mut self, device: DeviceId, packet: &[u8]) -> bool {
        let sent = self.outbox.send(device, packet);
        if sent && self.session.wants(None, Ends::of(packet)) {
            let buffer = self.session.buffer();
            let admitted = self.session.admit(buffer.is_some(), self.now);
            match buffer {
                Some(mut record) if admitted => {
                    record.came(&[]);
                    record.went(packet);
                    (record.at, record.worker) = (self.now, self.worker);
                    (record.rx, record.verdict) = (None, Verdict::Transmit(device));
                    self.session.deliver(record);
                }
                Some(record) => self.session.give_back(record),
                None => {}
            }
        }
        sent
    }
}
