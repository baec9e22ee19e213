//! A prober in each of two containers opens the node every 200 us, over 50 replugs. Plugging: ENOENT, then the device
//! with its final owner and mode. Unplugging: the driver's own errors, EPERM between revocation and removal, ENOENT.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Lab, Sighting, Stick, Users};

const ROUNDS: usize = 50;

const CONFIGURATION: &str = r#"
[alias.stick]
match = { serial = "A1B2" }

[[grant]]
alias = "stick"
container = "ctm:*"
group = "dialout"
mode = "0640"
"#;

/// The device as it is to be seen.
const FINISHED: &str = "ok char 188:0 640 0:20";

/// The same without its rights, as the host's root has it and as it looks with users of one's own.
const WITHDRAWN: [&str; 2] = ["char 188:0 0 0:0", "char 188:0 0 65534:65534"];

/// What the driver itself says while it loses its device.
const OF_THE_DRIVER: [&str; 3] = ["ENODEV", "ENXIO", "EIO"];

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let stick = Stick::new(&vm, "stick", Some("A1B2"))?;
    let _broker = Broker::start(&vm, CONFIGURATION)?;
    let containers = [
        Container::create(&vm, "plain", Users::Host)?,
        Container::create(&vm, "mapped", Users::Own)?,
    ];
    for container in &containers {
        container.start()?;
    }
    let watches = containers
        .iter()
        .map(|container| container.watch_open("/dev/ttyUSB0"))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..ROUNDS {
        let (plugged, _line) = stick.plug("1")?;
        ensure!(plugged.node("/dev/ttyUSB")? == "/dev/ttyUSB0", "{plugged:?}");
        for container in &containers {
            vm.wait_path(&format!("{}/ttyUSB0", container.dev()))?;
        }
        stick.unplug()?;
        for container in &containers {
            vm.wait_gone(&format!("{}/ttyUSB0", container.dev()))?;
        }
    }
    for (container, watch) in containers.iter().zip(watches) {
        check(container.name(), &watch.stop()?)?;
        container.destroy()?;
    }
    Ok(())
}

fn check(name: &str, sightings: &[Sighting]) -> Result<()> {
    let mut before = "ENOENT";
    let mut seen = 0;
    for (at, sighting) in sightings.iter().enumerate() {
        let outcome = sighting.outcome.as_str();
        let errno = outcome.split(' ').next().unwrap_or_default();
        // The probe looks at the path just after a refusal: the node is as it was, or gone, or withdrawn on the way there.
        let as_it_was = outcome == errno || outcome == format!("{errno} char 188:0 640 0:20");
        let withdrawn = outcome == errno || WITHDRAWN.iter().any(|face| outcome == format!("{errno} {face}"));
        // A prober on a busy host may miss a stay, or all of it but its end; what comes before `ok` is ENOENT alone.
        let fits = match errno {
            "ok" => {
                seen += 1;
                outcome == FINISHED && before == "ENOENT"
            }
            "ENOENT" => true,
            "EPERM" => as_it_was || withdrawn,
            // It had found the name before that went, and asked for the rights after those went.
            "EACCES" => withdrawn,
            driver => as_it_was && OF_THE_DRIVER.contains(&driver) && !["EPERM", "EACCES"].contains(&before),
        };
        let around = sightings.get(at.saturating_sub(4)..=at).unwrap_or_default();
        ensure!(fits, "{name}: `{outcome}` after `{before}`, in {around:#?}");
        before = errno;
    }
    ensure!(seen > ROUNDS / 2, "{name}: seen {seen} times of {ROUNDS}");
    Ok(())
}
