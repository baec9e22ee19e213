//! The API's server on a thread of its own, for a test that says what owns the state.

use devbroker::server::{Call, Limits, Server, bind};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// A server that ends with this value.
pub(crate) struct Served {
    folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Listens when this returns; `own` answers the calls.
    pub(crate) fn start<F: Future<Output = ()>>(
        limits: Limits,
        own: impl FnOnce(mpsc::Receiver<Call>) -> F + Send + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = socket(folder.path());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (server, calls) = Server::new(bind(&path).unwrap(), limits);
                ready.send(()).unwrap();
                tokio::spawn(server.run());
                tokio::select! {
                    () = own(calls) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self {
            folder,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// A folder of its own, in which its socket's folder is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its socket.
    pub(crate) fn path(&self) -> PathBuf {
        socket(self.folder())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("run/io.devbroker")
}
