//! The device program: instructions for the kernel's BPF machine.
//!
//! The context is `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }` with `access_type = access << 16 |
//! kind` (`linux/bpf.h`). The program looks the map up three times (the number itself, any minor, any number), joins what
//! it finds and returns 1 if all that is asked is there, else 0. It has no loop and no call but the lookups.

use super::Key;

/// One instruction in the kernel's form: `struct bpf_insn { u8 code; u8 dst:4, src:4; s16 off; s32 imm; }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class and operation.
    pub code: u8,
    /// Destination register.
    pub dst: u8,
    /// Source register.
    pub src: u8,
    /// Jump distance or memory offset.
    pub off: i16,
    /// Immediate operand.
    pub imm: i32,
}

impl Instruction {
    /// The eight bytes for the kernel. Bit fields begin at the low end on little-endian machines, at the high end elsewhere.
    pub fn bytes(self) -> [u8; 8] {
        let registers = if cfg!(target_endian = "little") {
            self.src << 4 | self.dst
        } else {
            self.dst << 4 | self.src
        };
        let [o0, o1] = self.off.to_ne_bytes();
        let [i0, i1, i2, i3] = self.imm.to_ne_bytes();
        [self.code, registers, o0, o1, i0, i1, i2, i3]
    }
}

// Operation codes (`linux/bpf.h`, `linux/bpf_common.h`).
pub(super) const LOAD_WORD: u8 = 0x61; // dst = *(u32 *)(src + off)
pub(super) const STORE_WORD: u8 = 0x63; // *(u32 *)(dst + off) = src
pub(super) const STORE_WORD_IMM: u8 = 0x62; // *(u32 *)(dst + off) = imm
pub(super) const LOAD_IMM64: u8 = 0x18; // dst = imm64, two slots
pub(super) const MOVE: u8 = 0xbf;
pub(super) const MOVE_IMM: u8 = 0xb7;
pub(super) const ADD_IMM: u8 = 0x07;
pub(super) const AND: u8 = 0x5f;
pub(super) const AND_IMM: u8 = 0x57;
pub(super) const OR: u8 = 0x4f;
pub(super) const SHIFT_RIGHT_IMM: u8 = 0x77;
pub(super) const JUMP_IF_EQUAL: u8 = 0x1d;
pub(super) const JUMP_IF_EQUAL_IMM: u8 = 0x15;
pub(super) const CALL: u8 = 0x85;
pub(super) const EXIT: u8 = 0x95;
/// `BPF_PSEUDO_MAP_FD`: the immediate is a descriptor, to be replaced by the map's address.
pub(super) const PSEUDO_MAP_FD: u8 = 1;
/// `bpf_map_lookup_elem`.
pub(super) const MAP_LOOKUP: i32 = 1;

/// Where the key lies, from the frame pointer.
const KEY: i16 = -12;
const KEY_MAJOR: i16 = KEY + 4;
const KEY_MINOR: i16 = KEY + 8;

/// The program for the map that `map` is a descriptor of.
pub fn program(map: i32) -> Vec<Instruction> {
    let i = |code, dst, src, off, imm| Instruction {
        code,
        dst,
        src,
        off,
        imm,
    };
    // r6 context, r7 asked accesses, r8 what the map gives, r10 frame.
    let mut code = vec![
        i(MOVE, 6, 1, 0, 0),
        i(LOAD_WORD, 7, 6, 0, 0),
        i(MOVE, 2, 7, 0, 0),
        i(AND_IMM, 2, 0, 0, 0xffff),
        i(STORE_WORD, 10, 2, KEY, 0),
        i(SHIFT_RIGHT_IMM, 7, 0, 0, 16),
        i(LOAD_WORD, 2, 6, 4, 0),
        i(STORE_WORD, 10, 2, KEY_MAJOR, 0),
        i(LOAD_WORD, 2, 6, 8, 0),
        i(STORE_WORD, 10, 2, KEY_MINOR, 0),
        i(MOVE_IMM, 8, 0, 0, 0),
    ];
    for widen in [None, Some(KEY_MINOR), Some(KEY_MAJOR)] {
        if let Some(field) = widen {
            code.push(i(STORE_WORD_IMM, 10, 0, field, Key::ANY.cast_signed_word()));
        }
        code.extend([
            i(LOAD_IMM64, 1, PSEUDO_MAP_FD, 0, map),
            i(0, 0, 0, 0, 0),
            i(MOVE, 2, 10, 0, 0),
            i(ADD_IMM, 2, 0, 0, i32::from(KEY)),
            i(CALL, 0, 0, 0, MAP_LOOKUP),
            i(JUMP_IF_EQUAL_IMM, 0, 0, 2, 0),
            i(LOAD_WORD, 1, 0, 0, 0),
            i(OR, 8, 1, 0, 0),
        ]);
    }
    code.extend([
        // The granted byte onto the seed's; bits above the three accesses are never asked.
        i(MOVE, 1, 8, 0, 0),
        i(SHIFT_RIGHT_IMM, 1, 0, 0, 8),
        i(OR, 8, 1, 0, 0),
        i(AND, 8, 7, 0, 0),
        i(MOVE_IMM, 0, 0, 0, 1),
        i(JUMP_IF_EQUAL, 8, 7, 1, 0),
        i(MOVE_IMM, 0, 0, 0, 0),
        i(EXIT, 0, 0, 0, 0),
    ]);
    code
}

/// The bits of a `u32` as an `i32` (`u32::cast_signed` is newer than the oldest compiler that must build this).
trait SignedWord {
    fn cast_signed_word(self) -> i32;
}

impl SignedWord for u32 {
    fn cast_signed_word(self) -> i32 {
        i32::from_ne_bytes(self.to_ne_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::run;
    use super::super::{DEFAULT_SEED, Numbers, SeedRule, Value};
    use super::*;
    use crate::model::{Access, DevKind, DevNum};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What the filter is to do, without any map.
    fn allowed(seed: &[SeedRule], granted: &BTreeMap<DevNum, Access>, device: DevNum, asked: Access) -> bool {
        seed.iter()
            .filter(|rule| rule.covers(device))
            .map(|rule| rule.access)
            .chain(granted.get(&device).copied())
            .fold(Access::NONE, Access::union)
            .contains(asked)
    }

    fn filled(seed: &[SeedRule], granted: &BTreeMap<DevNum, Access>) -> BTreeMap<Key, Value> {
        let mut map = Value::seed(seed);
        for (device, access) in granted {
            map.entry(Key::device(*device)).or_default().granted = *access;
        }
        map
    }

    #[test]
    fn the_defaults() {
        let granted = BTreeMap::from([(DevNum::char(188, 0), Access::READ_WRITE)]);
        let map = filled(DEFAULT_SEED, &granted);
        for (device, asked, yes) in [
            (DevNum::char(1, 3), Access::ALL, true),
            (DevNum::char(136, 17), Access::READ_WRITE, true),
            (DevNum::char(188, 0), Access::READ_WRITE, true),
            (DevNum::char(188, 0), Access::ALL, true), // mknod is seeded for all
            (DevNum::char(188, 1), Access::READ, false),
            (DevNum::char(188, 1), Access::MKNOD, true),
            (DevNum::block(188, 0), Access::READ, false),
            (DevNum::block(8, 0), Access::MKNOD, true),
            (DevNum::char(5, 1), Access::READ, false),
        ] {
            let context = [
                asked.bits() << 16 | device.kind as u32,
                device.major,
                device.minor,
            ];
            assert_eq!(
                run(&program(7), context, &map),
                u64::from(yes),
                "{device} {asked}"
            );
        }
        assert_eq!(program(7).len(), 45);
    }

    fn kind() -> impl Strategy<Value = DevKind> {
        prop_oneof![Just(DevKind::Block), Just(DevKind::Char)]
    }

    fn access() -> impl Strategy<Value = Access> {
        (0_u32..8).prop_map(Access::from_bits)
    }

    // Few numbers, so that rules, grants and questions meet.
    fn device() -> impl Strategy<Value = DevNum> {
        let number = || prop_oneof![4 => 0_u32..4, 1 => Just(4095)];
        (kind(), number(), number()).prop_map(|(kind, major, minor)| DevNum { kind, major, minor })
    }

    fn rule() -> impl Strategy<Value = SeedRule> {
        (device(), access(), 0..3).prop_map(|(device, access, width)| SeedRule {
            kind: device.kind,
            numbers: match width {
                0 => Numbers::All,
                1 => Numbers::Major(device.major),
                _ => Numbers::One(device.major, device.minor),
            },
            access,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_program_is_the_predicate(
            seed in prop::collection::vec(rule(), 0..8),
            granted in prop::collection::btree_map(device(), access(), 0..8),
            asked in prop::collection::vec((device(), access()), 1..32),
        ) {
            let map = filled(&seed, &granted);
            let code = program(3);
            for (device, access) in asked {
                let context = [access.bits() << 16 | device.kind as u32, device.major, device.minor];
                prop_assert_eq!(
                    run(&code, context, &map),
                    u64::from(allowed(&seed, &granted, device, access)),
                    "{} {}", device, access
                );
            }
        }
    }
}
