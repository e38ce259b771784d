//! Progress on standard error, where somebody is watching.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::import::{Meter, Phase};

const REDRAW: Duration = Duration::from_millis(150);

/// Writes a line to standard error.
pub(super) fn say(line: &str) {
    use std::io::Write;
    // Nobody is there to be told that nobody can be told.
    let _ignored = writeln!(std::io::stderr().lock(), "{line}");
}

/// A bar for a number of things that is known.
pub(super) fn bar(total: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = format!(
        "{{msg}} {{wide_bar}} {{human_pos}} of {{human_len}} {unit}, {{per_sec}}, {{eta}} left"
    );
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

/// Shows where an import is until it is dropped.
pub(super) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to show `meter`.
    pub(super) fn new(meter: &Arc<Meter>) -> Self {
        let (stop, stopped) = channel();
        let meter = Arc::clone(meter);
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                let mut shown: Option<(std::path::PathBuf, Phase, ProgressBar)> = None;
                let begun = Instant::now();
                while stopped.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                    // An import that is over at once needs no bar.
                    if begun.elapsed() > REDRAW * 2 {
                        draw(&meter, &mut shown);
                    }
                }
                if let Some((_, _, bar)) = shown {
                    bar.finish_and_clear();
                }
            });
        Self {
            stop: Some(stop),
            thread: thread.ok(),
        }
    }
}

fn draw(meter: &Meter, shown: &mut Option<(std::path::PathBuf, Phase, ProgressBar)>) {
    let (file, phase) = (meter.file(), meter.phase());
    let (position, total) = meter.position();
    if shown
        .as_ref()
        .is_none_or(|(known, at, _)| *known != file || *at != phase)
    {
        if let Some((_, _, bar)) = shown.take() {
            bar.finish_and_clear();
        }
        let (unit, verb) = match phase {
            Phase::Surveying => ("bytes", "reading"),
            Phase::Loading => ("rows", "storing"),
        };
        let bar = bar(total, unit);
        bar.set_message(format!("{verb} {}", file.display()));
        *shown = Some((file, phase, bar));
    }
    if let Some((_, _, bar)) = shown {
        bar.set_length(total.max(position));
        bar.set_position(position);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A bar that failed to draw is no reason to fail.
            let _ignored = thread.join();
        }
    }
}
