//! Hosts divided: the one of 2008, those in which too many are wanted, and any.

use super::*;
use proptest::prelude::*;

fn wish(containers: u32) -> Wish {
    Wish {
        containers,
        reserve: None,
        overcommit: None,
    }
}

/// The host of the article of 2008, for which vzsplit gave 13309 pages (52 MiB) to each of fifty, 240 processes.
fn article() -> Host {
    Host::described(3 * GIB, 0, Some(2), Some(200 * GIB))
}

#[test]
fn fifty_on_three_gibibytes() {
    let split = split(&article(), &wish(50)).unwrap();
    assert_eq!(split.level, Level::Usual);
    assert_eq!(split.host.reserve, (192 + 100) * MIB);
    assert_eq!(
        split.container,
        Share {
            memory: Memory {
                guarantee: 50 * MIB,
                soft_guarantee: 55 * MIB,
                barrier: 100 * MIB,
                limit: 111 * MIB,
            },
            swap: 0,
            processes: 442,
            cpu: Cpu {
                weight: 100,
                share: Some(Percent::whole(4)),
            },
            disk: Some(Disk {
                space: 3891 * MIB,
                space_soft: Some(3537 * MIB),
                inodes: Some(235_929),
                inodes_soft: Some(214_480),
            }),
        }
    );
    assert_eq!(split.left.memory, 3 * GIB - 50 * 55 * MIB);
    let keys: Vec<_> = split
        .keys()
        .into_iter()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    assert_eq!(
        keys,
        [
            "memory_guarantee = \"50M\"",
            "memory_soft_guarantee = \"55M\"",
            "memory_barrier = \"100M\"",
            "memory_limit = \"111M\"",
            "swap_limit = \"0\"",
            "processes = 442",
            "cpu_weight = 100",
            "disk_space = \"3891M\"",
            "disk_space_soft = \"3537M\"",
            "disk_inodes = 235929",
            "disk_inodes_soft = 214480",
        ]
    );
}

#[test]
fn one_has_all_that_is_not_the_host_s() {
    let split = split(&article(), &wish(1)).unwrap();
    let all = (3072 - 192 - 2) * MIB;
    assert_eq!((split.level, split.container.memory.limit), (Level::Roomy, all));
    assert_eq!(split.container.memory.soft_guarantee, all);
}

#[test]
fn what_does_not_fit() {
    let said = |host: &Host, wish: &Wish| split(host, wish).unwrap_err().to_string();
    assert_eq!(
        said(&article(), &wish(200)),
        "200 containers do not fit: each would have 11M of guaranteed memory, and cannot live with less than 16M; \
         at most 145 fit"
    );
    assert_eq!(
        said(&Host::described(GIB, 0, None, Some(4 * GIB)), &wish(100)),
        "100 containers do not fit: each would have 6.0M of guaranteed memory, and cannot live with less than 16M; \
         at most 45 fit"
    );
    assert_eq!(
        said(&Host::described(64 * GIB, 0, None, Some(4 * GIB)), &wish(100)),
        "100 containers do not fit: each would have 36M of disk, and cannot live with less than 64M; at most 57 fit"
    );
    assert_eq!(
        said(&Host::described(64 * MIB, 0, None, None), &wish(1)),
        "not even one container fits: each would have 0 of guaranteed memory, and cannot live with less than 16M; \
         a larger host is needed, or a smaller --reserve"
    );
    let of_pids = Host {
        processes: 4096,
        ..Host::described(64 * GIB, 0, None, None)
    };
    assert_eq!(
        said(&of_pids, &wish(200)),
        "200 containers do not fit: each would have 17 of the host's processes, and cannot live with less than 32; \
         at most 112 fit"
    );
    assert!(matches!(
        split(
            &article(),
            &Wish {
                overcommit: "0.5".parse().ok(),
                ..wish(1)
            }
        ),
        Err(SplitError::Overcommit(_))
    ));
}

fn hosts() -> impl Strategy<Value = Host> {
    let size = |bits: u32| (0..bits, any::<u64>()).prop_map(|(bits, n)| n % (2 << bits));
    let disk = proptest::option::of((size(50), size(32)));
    (
        size(46),
        size(46),
        proptest::option::of(1..4096_u32),
        size(23),
        disk,
    )
        .prop_map(|(memory, swap, cpus, processes, disk)| Host {
            memory,
            swap,
            cpus,
            processes,
            disk: disk.map(|(bytes, _)| bytes),
            soft_disk: processes % 2 == 0,
            inodes: disk.map(|(_, inodes)| inodes).filter(|inodes| inodes % 3 > 0),
        })
}

fn wishes() -> impl Strategy<Value = Wish> {
    let reserve = proptest::option::of(any::<u64>().prop_map(|n| n % (4 * GIB)));
    let overcommit = proptest::option::of((100..1000_u32).prop_map(Factor::hundredths));
    let containers = prop_oneof![1..8_u32, 1..300_u32, 1..=MOST];
    (containers, reserve, overcommit).prop_map(|(containers, reserve, overcommit)| Wish {
        containers,
        reserve,
        overcommit,
    })
}

proptest! {
    #[test]
    fn nothing_is_given_twice(host in hosts(), wish in wishes()) {
        let Ok(split) = split(&host, &wish) else { return Ok(()) };
        let n = u64::from(wish.containers);
        let Share { memory, swap, processes, disk, cpu } = &split.container;
        let ordered = [LEAST_GUARANTEE, memory.guarantee, memory.soft_guarantee, memory.barrier, memory.limit];
        prop_assert!(ordered.is_sorted(), "{ordered:?}");
        prop_assert!(memory.soft_guarantee * n + split.host.reserve <= host.memory);
        prop_assert!(memory.limit + split.host.reserve <= host.memory);
        prop_assert_eq!(split.left.memory + memory.soft_guarantee * n, host.memory);
        prop_assert!(split.left.memory >= split.host.reserve);
        prop_assert!(swap * n <= host.swap);
        prop_assert!(processes * n + split.host.processes_reserve <= host.processes);
        prop_assert!(*processes >= LEAST_PROCESSES);
        if let Some(disk) = disk {
            prop_assert!(disk.space_soft <= Some(disk.space) && disk.space >= LEAST_DISK);
            prop_assert!(disk.space * n + split.host.disk_reserve.unwrap() <= host.disk.unwrap());
            prop_assert!(disk.inodes_soft <= disk.inodes);
            prop_assert!(disk.inodes.unwrap_or(0) * n <= host.inodes.unwrap_or(0));
        }
        prop_assert_eq!(disk.is_some(), host.disk.is_some());
        if let Some(cpus) = host.cpus {
            prop_assert!(cpu.share.unwrap().millionths() * n <= u64::from(cpus) * 1_000_000);
        }
    }

    #[test]
    fn more_containers_have_no_more_each(host in hosts(), wish in wishes(), more in 1..64_u32) {
        let fewer = split(&host, &wish);
        let more = split(&host, &Wish { containers: wish.containers + more, ..wish });
        let (Ok(fewer), Ok(more)) = (&fewer, &more) else {
            // Where fewer do not fit, more do not.
            prop_assert!(fewer.is_ok() || more.is_err());
            return Ok(());
        };
        let amounts = |split: &Split| {
            let Share { memory, swap, processes, disk, cpu } = split.container.clone();
            let disk = disk.map(|disk| [disk.space, disk.space_soft.unwrap_or(0), disk.inodes.unwrap_or(0)]);
            (
                [memory.guarantee, memory.soft_guarantee, memory.barrier, memory.limit, swap, processes],
                disk.unwrap_or_default(),
                cpu.share.map_or(0, Percent::millionths),
            )
        };
        let (fewer, more) = (amounts(fewer), amounts(more));
        prop_assert!(fewer.0.iter().zip(more.0).all(|(fewer, more)| *fewer >= more));
        prop_assert!(fewer.1.iter().zip(more.1).all(|(fewer, more)| *fewer >= more) && fewer.2 >= more.2);
    }

    #[test]
    fn the_largest_number_is_the_largest(host in hosts(), wish in wishes()) {
        let largest = match split(&host, &wish) {
            Ok(split) => split.largest,
            Err(SplitError::TooMany { largest, .. }) => largest,
            Err(SplitError::NotOne(_)) => 0,
            Err(SplitError::Overcommit(_)) => unreachable!("it is 1 or more"),
        };
        let of = |containers| split(&host, &Wish { containers, ..wish });
        if largest > 0 {
            prop_assert_eq!(of(largest).map(|split| split.largest), Ok(largest));
        }
        if largest < MOST {
            prop_assert!(of(largest + 1).is_err());
        }
    }
}
