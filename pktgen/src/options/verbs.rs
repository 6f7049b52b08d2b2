//! Options that only one verb has.

use std::net::IpAddr;

use super::error::printable;
use super::parse::{count, per_second, positive, seconds, share, unicast};
use super::read::{Ends, Reader};
use crate::rate::Rate;
use crate::size::{self, Size};
use crate::spec::{Cps, Flood, Ndr, Protocol, Reflect, Verb};

impl Reader {
    /// What to run, and what only that needs.
    pub(super) fn verb(
        &mut self,
        verb: &str,
        ends: Option<&Ends>,
        protocol: Option<Protocol>,
    ) -> Option<Verb> {
        match verb {
            "load" => Some(Verb::Load),
            "reflect" => self.reflect(ends),
            "cps" => self.cps(),
            "flood" => self.flood(),
            "ndr" => self.ndr(ends, protocol),
            _ => {
                self.fault("", format!("unknown verb `{}`", printable(verb)), "");
                None
            }
        }
    }

    fn reflect(&mut self, ends: Option<&Ends>) -> Option<Verb> {
        let v4 = ends?.vip.is_ipv4();
        let next_hop = self.optional("next_hop", |text| match text.parse::<IpAddr>() {
            Ok(hop) if hop.is_ipv4() == v4 => unicast(hop).map(|()| hop),
            Ok(_) => Err("expected an address of the VIP's family".to_owned()),
            Err(_) => Err("expected an address, like 198.19.255.254".to_owned()),
        });
        Some(Verb::Reflect(Reflect { next_hop }))
    }

    fn cps(&mut self) -> Option<Verb> {
        let (from, to) = (self.get("from", positive), self.get("to", positive));
        let steps = self.get("steps", |t| count(t, 1000));
        let step = self.get("step_seconds", |t| seconds(t, 3600.0));
        let (from, to) = (from?, to?);
        if from > to {
            self.fault("to", format!("the last step ({to}/s) is below the first"), "");
        }
        Some(Verb::Cps(Cps { from, to, steps: steps?, step: step? }))
    }

    fn flood(&mut self) -> Option<Verb> {
        let syn = self.get("syn_flood", per_second);
        let udp = self.get("udp_flood", per_second);
        let (syn, udp) = (syn?, udp?);
        if syn + udp <= 0.0 {
            let why = "give --syn-flood or --udp-flood a rate, like 200k";
            self.fault("syn_flood", "a flood of nothing", why);
        }
        Some(Verb::Flood(Flood { syn, udp }))
    }

    fn ndr(&mut self, ends: Option<&Ends>, protocol: Option<Protocol>) -> Option<Verb> {
        let wanted = self.get("sizes", |text| {
            let sizes: Result<Vec<Size>, String> =
                text.split(',').map(|s| s.trim().parse::<Size>()).collect();
            sizes
        });
        let (from, to) = (self.get("from", str::parse::<Rate>), self.get("to", str::parse::<Rate>));
        let allowance = self.get("allowance", share);
        let resolution = self.get("resolution", |t| match share(t) {
            Ok(share) if share >= 0.0001 => Ok(share),
            _ => Err("expected a share from 0.0001 to below 1, like 0.01 or 1%"),
        });
        let trial = self.get("trial_seconds", |t| seconds(t, 3600.0));
        let mut sizes = Vec::new();
        for size in wanted? {
            let size = self.raise(Some(size), ends, protocol, "sizes")?;
            self.check_rate("from", from, Some(size), ends, protocol);
            self.check_rate("to", to, Some(size), ends, protocol);
            let bits = size.wire_bits(size::least(ends?.vip.is_ipv6(), protocol?));
            if from?.pps(bits) >= to?.pps(bits) {
                let message = format!("not above --from for {size}-byte frames");
                self.fault("to", message, "the search needs room");
            }
            if !sizes.contains(&size) {
                sizes.push(size);
            }
        }
        let (from, to, trial) = (from?, to?, trial?);
        let (allowance, resolution) = (allowance?, resolution?);
        Some(Verb::Ndr(Ndr { sizes, allowance, from, to, resolution, trial }))
    }
}
