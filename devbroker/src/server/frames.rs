//! Messages from a socket: bytes up to a NUL, bounded before anything looks at them.

use crate::api::{FrameError, MAX_FRAME};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much is read at once.
const CHUNK: usize = 4096;

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The socket failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
    /// Too long.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The client hung up in the middle of a message.
    #[error("the client hung up in the middle of a message")]
    Half,
}

/// Reads messages. [`next`](Self::next) may be cancelled and called again: what was read stays.
#[derive(Debug)]
pub(super) struct Frames<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Where in the buffer the next message begins, and up to where no NUL is in it.
    start: usize,
    scanned: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
        }
    }

    /// Whether a part of a message waits for its rest.
    pub(super) fn has_begun(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// Whether as much is read ahead as may be.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() - self.start > MAX_FRAME
    }

    /// Waits until something was read; false at the end.
    pub(super) async fn fill(&mut self) -> Result<bool, io::Error> {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.buffer.reserve(CHUNK);
        let mut limited = (&mut self.reader).take(CHUNK as u64);
        Ok(limited.read_buf(&mut self.buffer).await? > 0)
    }

    /// A whole message that was read already, without its NUL.
    pub(super) fn ready(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let unseen = self.buffer.get(self.scanned..).unwrap_or_default();
        match unseen.iter().position(|byte| *byte == 0) {
            Some(at) => {
                let end = self.scanned + at;
                let frame = self.buffer.get(self.start..end).unwrap_or_default().to_vec();
                self.start = end + 1;
                self.scanned = self.start;
                if frame.len() > MAX_FRAME {
                    return Err(FrameError::TooLong);
                }
                Ok(Some(frame))
            }
            None if self.is_full() => Err(FrameError::TooLong),
            None => {
                self.scanned = self.buffer.len();
                Ok(None)
            }
        }
    }

    /// The next message, without its NUL; none when the client has hung up between two.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return if self.has_begun() {
                    Err(ReadError::Half)
                } else {
                    Ok(None)
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<String>) {
        let mut frames = Frames::new(bytes);
        let mut got = Vec::new();
        loop {
            match frames.next().await {
                Ok(Some(frame)) => got.push(frame),
                Ok(None) => return (got, None),
                Err(error) => return (got, Some(error.to_string())),
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn split_at_nul_and_bounded() {
        assert_eq!(all(b"").await, (vec![], None));
        assert_eq!(
            all(b"ab\0\0c\0").await,
            (vec![b"ab".to_vec(), vec![], b"c".to_vec()], None)
        );
        let (got, error) = all(b"ab\0c").await;
        assert_eq!(
            (got.len(), error.unwrap().as_str()),
            (1, "the client hung up in the middle of a message")
        );

        let mut longest = vec![b'x'; MAX_FRAME];
        longest.push(0);
        let twice = [longest.clone(), longest.clone()].concat();
        assert_eq!(all(&twice).await.0.len(), 2);
        longest.insert(0, b'x');
        assert!(all(&longest).await.1.unwrap().contains("longer than 65536 bytes"));
        let endless = vec![b'x'; 4 * MAX_FRAME];
        let mut frames = Frames::new(&endless[..]);
        assert!(frames.next().await.is_err());
        assert!(
            frames.buffer.capacity() < 3 * MAX_FRAME,
            "{}",
            frames.buffer.capacity()
        );
    }
}
