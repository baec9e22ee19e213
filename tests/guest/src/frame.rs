//! One frame of the agent's protocol: a line `KIND ID LENGTH`, then LENGTH bytes.
//!
//! The host sends `hello`, `run`, `stdin`, `eof`, `kill`; the guest answers
//! `hello`, `out`, `err`, `exit`, `failed`. ID is chosen by the host and names
//! one command; it is the nonce in `hello`.

use std::io::{self, BufRead, Write};

/// Longest payload that is accepted.
pub const LIMIT: usize = 16 << 20;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Both ways: are you there? Yes.
    Hello,
    /// To the guest: the payload is a script for bash.
    Run,
    /// To the guest: bytes for a command's standard input.
    Stdin,
    /// To the guest: the end of a command's standard input.
    Eof,
    /// To the guest: kill the command and all of its process group.
    Kill,
    /// From the guest: bytes a command wrote to standard output.
    Out,
    /// From the guest: bytes a command wrote to standard error.
    Err,
    /// From the guest: the command ended; the payload is its exit status, or
    /// minus the number of the signal that ended it.
    Exit,
    /// From the guest: the command could not be started; the payload says why.
    Failed,
}

const NAMES: [(Kind, &str); 9] = [
    (Kind::Hello, "hello"),
    (Kind::Run, "run"),
    (Kind::Stdin, "stdin"),
    (Kind::Eof, "eof"),
    (Kind::Kill, "kill"),
    (Kind::Out, "out"),
    (Kind::Err, "err"),
    (Kind::Exit, "exit"),
    (Kind::Failed, "failed"),
];

impl Kind {
    fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("failed", |(_, name)| name)
    }

    fn parse(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(kind, _)| *kind)
    }
}

/// A frame, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it says.
    pub kind: Kind,
    /// The command it is about.
    pub id: u64,
    /// Its payload.
    pub data: Vec<u8>,
}

impl Frame {
    /// A frame of these parts.
    pub fn new(kind: Kind, id: u64, data: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            id,
            data: data.into(),
        }
    }

    /// Writes the frame with one call, so that frames of several threads, each
    /// behind the same lock, never mix.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = format!("{} {} {}\n", self.kind.name(), self.id, self.data.len()).into_bytes();
        bytes.extend_from_slice(&self.data);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads the next frame; `None` at the end of the stream before a frame.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let (kind, id, length) = header(line.trim_end())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not a frame: {line:?}")))?;
        let mut data = vec![0; length];
        from.read_exact(&mut data)?;
        Ok(Some(Self { kind, id, data }))
    }
}

fn header(line: &str) -> Option<(Kind, u64, usize)> {
    let mut words = line.split(' ');
    let kind = Kind::parse(words.next()?)?;
    let id = words.next()?.parse().ok()?;
    let length = words.next()?.parse().ok().filter(|length| *length <= LIMIT)?;
    words.next().is_none().then_some((kind, id, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let frames: Vec<Frame> = NAMES
            .iter()
            .zip(0..)
            .map(|((kind, name), id)| Frame::new(*kind, id, name.as_bytes()))
            .collect();
        let mut wire = Vec::new();
        for frame in &frames {
            frame.write(&mut wire).unwrap();
        }
        let mut from = wire.as_slice();
        let mut read = Vec::new();
        while let Some(frame) = Frame::read(&mut from).unwrap() {
            read.push(frame);
        }
        assert_eq!(read, frames);
    }

    #[test]
    fn bad_headers_are_errors() {
        for line in [
            "",
            "run",
            "run 1",
            "run 1 x",
            "jump 1 0",
            "run 1 0 0",
            "run -1 0",
            "run 1 99999999999",
        ] {
            assert_eq!(header(line), None, "{line}");
        }
        assert_eq!(header("run 1 0"), Some((Kind::Run, 1, 0)));
    }
}
