//! `lb attach` and `lb detach`.

use clap::ValueEnum;

use super::{Done, Session};
use crate::api;
use crate::api::views::AttachView;
use crate::dataplane::AttachMode;

#[derive(Debug, clap::Args)]
pub(super) struct Attach {
    /// Name of the device.
    device: String,
    /// How to attach.
    #[arg(long, default_value = "auto")]
    mode: ModeWord,
    /// Put the balancer in the place of another XDP program.
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Detach {
    /// Name of the device.
    device: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ModeWord {
    /// In the driver, or, where that is not possible, in the kernel's stack, with a warning.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's stack, at a fraction of the speed.
    Generic,
}

impl From<ModeWord> for AttachMode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Auto => Self::Auto,
            ModeWord::Native => Self::Native,
            ModeWord::Generic => Self::Generic,
        }
    }
}

pub(super) async fn attach(session: &mut Session<'_>, args: Attach) -> Done {
    let body = api::Attach { device: args.device, mode: args.mode.into(), replace: args.replace };
    let view: AttachView = session.client.send("/v1/attach", &body).await?;
    if session.out.json {
        session.out.value(&view)?;
        return Ok(None);
    }
    let device = &view.device;
    session.out.line(&format!("attached to {}, {}: {}", device.name, device.mode, device.why));
    session.out.line(&format!("undo: lb detach {}", device.name));
    for warning in &view.warnings {
        session.out.warn(warning);
    }
    Ok(None)
}

pub(super) async fn detach(session: &mut Session<'_>, args: Detach) -> Done {
    let body = api::Detach { device: args.device.clone() };
    let value: serde_json::Value = session.client.send("/v1/detach", &body).await?;
    if session.out.json {
        session.out.value(&value)?;
    } else {
        session.out.line(&format!("detached from {}: its packets are the kernel's alone", args.device));
        session.out.line(&format!("undo: lb attach {}", args.device));
    }
    Ok(None)
}
