//! A small BPF machine for the tests: just the instructions that the device program uses, and the kernel's rules for them
//! that matter here (stack of 512 bytes, words aligned, no read of what was never written). Anything else panics.

use super::program::{
    ADD_IMM, AND, AND_IMM, CALL, EXIT, JUMP_IF_EQUAL, JUMP_IF_EQUAL_IMM, LOAD_IMM64, LOAD_WORD, MAP_LOOKUP,
    MOVE, MOVE_IMM, OR, PSEUDO_MAP_FD, SHIFT_RIGHT_IMM, STORE_WORD, STORE_WORD_IMM,
};
use super::{Instruction, Key, Value};
use std::collections::BTreeMap;

/// What a register holds. The kernel's verifier keeps the same kinds apart.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Register {
    Unset,
    Number(u64),
    Context,
    Stack(i64),
    Map,
    Entry(Value),
}

/// Runs the program and returns what it returns.
pub(super) fn run(code: &[Instruction], context: [u32; 3], map: &BTreeMap<Key, Value>) -> u64 {
    let mut registers = [Register::Unset; 11];
    registers[1] = Register::Context;
    registers[10] = Register::Stack(0);
    let mut stack: BTreeMap<i64, u32> = BTreeMap::new();
    let mut at = 0;
    for _ in 0..1000 {
        let Instruction {
            code: op,
            dst,
            src,
            off,
            imm,
        } = code[at];
        let (d, s) = (usize::from(dst), usize::from(src));
        let immediate = Register::Number(i64::from(imm).cast_unsigned_word());
        at += 1;
        match op {
            MOVE => registers[d] = registers[s],
            MOVE_IMM => registers[d] = immediate,
            ADD_IMM => {
                let Register::Stack(base) = registers[d] else {
                    panic!("add to {:?}", registers[d])
                };
                registers[d] = Register::Stack(base + i64::from(imm));
            }
            AND | OR | AND_IMM | SHIFT_RIGHT_IMM => {
                let operand = if op & 8 == 8 { registers[s] } else { immediate };
                let (Register::Number(a), Register::Number(b)) = (registers[d], operand) else {
                    panic!("arithmetic on {:?} and {operand:?}", registers[d])
                };
                registers[d] = Register::Number(match op {
                    AND | AND_IMM => a & b,
                    OR => a | b,
                    _ => a >> b,
                });
            }
            LOAD_WORD => {
                registers[d] = Register::Number(u64::from(match registers[s] {
                    Register::Context => context[usize::try_from(off).unwrap() / 4],
                    Register::Stack(base) => stack[&(base + i64::from(off))],
                    Register::Entry(value) if off == 0 => value.word(),
                    Register::Entry(_) | Register::Unset | Register::Number(_) | Register::Map => {
                        panic!("load by {:?}", registers[s])
                    }
                }));
            }
            STORE_WORD | STORE_WORD_IMM => {
                let Register::Stack(base) = registers[d] else {
                    panic!("store to {:?}", registers[d])
                };
                let operand = if op == STORE_WORD { registers[s] } else { immediate };
                let Register::Number(number) = operand else {
                    panic!("store of {operand:?}")
                };
                let to = base + i64::from(off);
                assert!((-512..0).contains(&to) && to % 4 == 0, "stack {to}");
                stack.insert(to, u32::try_from(number & 0xffff_ffff).unwrap());
            }
            LOAD_IMM64 => {
                assert_eq!((src, code[at].code), (PSEUDO_MAP_FD, 0));
                registers[d] = Register::Map;
                at += 1;
            }
            CALL => {
                assert_eq!((imm, registers[1]), (MAP_LOOKUP, Register::Map));
                let Register::Stack(key) = registers[2] else {
                    panic!("key in {:?}", registers[2])
                };
                let key = Key::from_words([stack[&key], stack[&(key + 4)], stack[&(key + 8)]]);
                registers[0] = map
                    .get(&key)
                    .map_or(Register::Number(0), |value| Register::Entry(*value));
                registers[1..6].fill(Register::Unset);
            }
            JUMP_IF_EQUAL | JUMP_IF_EQUAL_IMM => {
                let operand = if op == JUMP_IF_EQUAL {
                    registers[s]
                } else {
                    immediate
                };
                assert!(registers[d] != Register::Unset && operand != Register::Unset);
                if registers[d] == operand {
                    at += usize::try_from(off).expect("no backward jump");
                }
            }
            EXIT => {
                let Register::Number(result) = registers[0] else {
                    panic!("returns {:?}", registers[0])
                };
                return result;
            }
            other => panic!("operation {other:#x}"),
        }
    }
    panic!("does not end");
}

/// The bits of an `i64` as a `u64`.
trait UnsignedWord {
    fn cast_unsigned_word(self) -> u64;
}

impl UnsignedWord for i64 {
    fn cast_unsigned_word(self) -> u64 {
        u64::from_ne_bytes(self.to_ne_bytes())
    }
}
