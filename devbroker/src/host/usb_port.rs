//! Names of physical USB sockets: controller and chain of ports, the same for both speeds of a socket.
//!
//! Pure, but for one question that the caller answers from sysfs: which port of the USB 2 side is the other half of a
//! USB 3 one (`<device>/port/peer`, `Documentation/ABI/testing/sysfs-bus-usb`).

use crate::model::{PortName, SysDevice, SysPath};

/// Linux's own vendor id, which its root hubs carry, and the product id of those of USB 3 (`drivers/usb/core/hcd.c`).
const LINUX_FOUNDATION: &str = "1d6b";
const SUPERSPEED_ROOT_HUB: &str = "0003";

/// What is known of the USB bus on the way down from the root hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bus {
    /// The root hub's controller by its name in sysfs.
    controller: String,
    /// Whether this is the USB 3 half of the controller.
    superspeed: bool,
}

/// Whether this is a USB device (and not an interface of one).
pub(super) fn is_usb_device(device: &SysDevice) -> bool {
    device.subsystem.as_deref() == Some("usb") && device.devtype.as_deref() == Some("usb_device")
}

/// The bus below `device`, if that is a root hub.
pub(super) fn bus_of_root_hub(device: &SysDevice) -> Option<Bus> {
    let get = |key| device.attributes.get(key).map(String::as_str);
    if !is_usb_device(device) || get("devpath") != Some("0") {
        return None;
    }
    Some(Bus {
        controller: device.syspath.parent().as_ref().map_or("?", SysPath::name).into(),
        superspeed: get("idVendor") == Some(LINUX_FOUNDATION)
            && get("idProduct") == Some(SUPERSPEED_ROOT_HUB),
    })
}

/// The socket of `device` on `bus`. `hub` is the socket of the hub above, `None` if that is the root hub; `peer` gives the
/// name of the port on the other half (`usb1-port2`, `1-2-port1`), and is asked only on the USB 3 half.
pub(super) fn port_name(
    device: &SysDevice,
    bus: &Bus,
    hub: Option<&PortName>,
    peer: impl FnOnce() -> Option<String>,
) -> Option<PortName> {
    let devpath = device.attributes.get("devpath")?;
    let own: u32 = devpath.rsplit('.').next()?.parse().ok()?;
    let peer = if bus.superspeed {
        peer().and_then(|name| name.rsplit_once("-port")?.1.parse::<u32>().ok())
    } else {
        None
    };
    let text = match (hub, peer) {
        (None, None) if bus.superspeed => format!("{}/ss{own}", bus.controller),
        (None, number) => format!("{}/{}", bus.controller, number.unwrap_or(own)),
        (Some(hub), number) => format!("{hub}.{}", number.unwrap_or(own)),
    };
    Some(PortName(text))
}
