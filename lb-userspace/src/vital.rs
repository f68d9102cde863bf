//! Threads that the daemon cannot live without: if one panics, the process ends, so that a dead writer never
//! looks alive. Forwarding goes on, the journal has all that was acknowledged, and the next start adopts both.

/// Starts a vital thread.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
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
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.expect("a daemon that starts can have a thread");
}

/// Starts a vital thread with a runtime of its own, which ends with `body`.
pub(crate) fn spawn_async(name: &str, body: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a daemon that starts can have a runtime");
    spawn(name, move || runtime.block_on(body));
}

fn end() {
    tracing::error!("a vital part of the daemon has failed (LB5099): it ends; forwarding goes on");
    std::process::abort();
}
