//! Threads that the daemon cannot live without: if one panics, the process ends, so that a dead writer never
//! looks alive. Forwarding goes on, the journal has all that was acknowledged, and the next start adopts both.

use std::io;

/// Starts a vital thread.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    try_spawn(name, body).expect("a daemon that starts can have a thread");
}

fn try_spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    /// Ends the process if it is dropped by a panic of its thread.
    struct Vital;
    impl Drop for Vital {
        fn drop(&mut self) {
            if std::thread::panicking() {
                end();
            }
        }
    }
    let run = move || {
        let _vital = Vital;
        body();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// Starts a vital thread with a runtime of its own, which ends with `body`.
pub(crate) fn spawn_async(name: &str, body: impl Future<Output = ()> + Send + 'static) {
    try_spawn_async(name, body).expect("a daemon that starts can have a thread and a runtime");
}

/// The same for what is started because somebody asked for it: the process may have run out of threads or descriptors.
///
/// # Errors
/// It has.
pub(crate) fn try_spawn_async(name: &str, body: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    try_spawn(name, move || runtime.block_on(body))
}

fn end() {
    tracing::error!("a vital part of the daemon has failed (LB5099): it ends; forwarding goes on");
    std::process::abort();
}
