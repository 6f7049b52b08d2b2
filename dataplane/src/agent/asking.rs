//! Who answers for an address on the wire? Asked on every interface, heard by the workers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use dataplane_api::message::{PATH_TIMEOUT_MAX, RESOLVE_MAX, Resolution};

use crate::address::{Address, DeviceId};
use crate::clock;
use crate::published::Published;
use crate::runtime::Runtime;

/// How often an address is asked for as long as nobody answers.
const TIMES: u32 = 3;

/// Everybody who answered for these addresses within the time.
///
/// # Errors
/// What is wrong with the question.
pub(super) fn resolve(
    runtime: &Runtime,
    addresses: &[IpAddr],
    timeout_ms: u32,
) -> Result<Vec<Resolution>, String> {
    if !(1..=RESOLVE_MAX).contains(&addresses.len())
        || !(1..=PATH_TIMEOUT_MAX).contains(&timeout_ms)
    {
        return Err(format!(
            "addresses must be 1 to {RESOLVE_MAX}, timeout_ms 1 to {PATH_TIMEOUT_MAX}"
        ));
    }
    let published = runtime.cell.get();
    let foreign = |a: &&IpAddr| published.services.owner(Address::from(**a)).is_none();
    if let Some(foreign) = addresses.iter().find(foreign) {
        return Err(format!(
            "{foreign} is no VIP, local address or gateway: answers about it are the kernel's"
        ));
    }
    let resolver = &runtime.forward.resolver;
    let asked: BTreeSet<Address> = addresses.iter().map(|a| (*a).into()).collect();
    let index = resolver.start(asked).ok_or("too many clients are asking already")?;
    let begun = clock::now();
    let step = Duration::from_millis(timeout_ms.into()) / TIMES;
    for time in 1..=TIMES {
        resolver.ask(index, &usable(&runtime.cell.get()));
        runtime.ring();
        let until = begun.after(step * time);
        loop {
            let left = until.since(clock::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
    }
    let answers = resolver.finish(index);
    let report = runtime.report.lock().unwrap_or_else(PoisonError::into_inner);
    let name = |device: DeviceId| {
        report.interfaces.get(device.index()).map(|i| i.name.clone()).unwrap_or_default()
    };
    let resolution = |(address, device, mac): (Address, DeviceId, crate::address::Mac)| {
        Resolution { address: address.into(), interface: name(device), mac: mac.to_string() }
    };
    Ok(answers.into_iter().map(resolution).collect())
}

fn usable(published: &Published) -> Vec<DeviceId> {
    let devices = published.devices.iter().zip(0..).filter(|(device, _)| device.usable);
    devices.map(|(_, slot)| DeviceId(slot)).collect()
}
