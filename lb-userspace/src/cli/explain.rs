//! `lb explain`: the story of a packet, or of a code or a reason.

use lb_common::reason::Reason;
use serde_json::json;

use super::{Done, Session};
use crate::api::SCHEMA;
use crate::api::client::encoded;
use crate::api::views::ExplainView;
use crate::problem::{Code, Problem};
use crate::suggest;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client, as ADDRESS or ADDRESS:PORT; or, alone, a code such as LB1002 or a reason such as no_vip.
    #[arg(value_name = "CLIENT|WORD")]
    what: String,
    /// The vip: its name, ADDRESS:PORT or ADDRESS:PORT/PROTOCOL.
    vip: Option<String>,
    /// A UDP datagram instead of a TCP segment.
    #[arg(long)]
    udp: bool,
    /// A later segment of a connection instead of its first (SYN).
    #[arg(long, conflicts_with = "udp")]
    established: bool,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let Some(vip) = &args.vip else { return word(session, &args.what) };
    let query = format!(
        "client={}&vip={}&udp={}&established={}",
        encoded(&args.what),
        encoded(vip),
        args.udp,
        args.established
    );
    let view: ExplainView = session.client.read(&format!("/v1/explain?{query}")).await?;
    if session.out.json {
        session.out.value(&view)?;
        return Ok(None);
    }
    for sentence in &view.story {
        session.out.line(sentence);
    }
    Ok(None)
}

fn word(session: &mut Session<'_>, text: &str) -> Done {
    if let Some(reason) = Reason::ALL.iter().find(|reason| reason.name() == text) {
        if session.out.json {
            let value = json!({ "schema": SCHEMA, "reason": reason.name(), "meaning": reason.text() });
            session.out.value(&value)?;
        } else {
            session.out.line(&format!("{}: {}", reason.name(), reason.text()));
        }
        return Ok(None);
    }
    let Some(code) = Code::parse(text) else {
        let names: Vec<String> = Code::ALL.iter().map(Code::to_string).collect();
        let reasons = Reason::ALL.iter().map(|reason| reason.name());
        let hint = match suggest::hint(text, reasons) {
            hint if hint.is_empty() => suggest::hint(text, names.iter().map(String::as_str)),
            hint => hint,
        };
        let problem = match text.parse::<std::net::IpAddr>().is_ok() || text.contains([':', '.']) {
            true => {
                Problem::new(Code::BadAddress, "a packet has a client and a vip: `lb explain CLIENT VIP`")
            }
            false => Problem::new(Code::UnknownCode, format!("there is no code or reason `{text}`{hint}")),
        };
        return Err(problem);
    };
    if session.out.json {
        let value = json!({
            "schema": SCHEMA, "code": code, "meaning": code.short(), "what_to_do": code.advice()
        });
        session.out.value(&value)?;
        return Ok(None);
    }
    session.out.line(&format!("{code}: {}", code.short()));
    session.out.line(code.advice());
    Ok(None)
}
