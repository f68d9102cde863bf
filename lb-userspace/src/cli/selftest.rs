//! `lb selftest`: known packets through the loaded program; exit status 6 if an answer is wrong.

use serde_json::json;

use super::{Done, Session};
use crate::api::views::{CheckView, SelftestView};
use crate::problem::Exit;

pub(super) async fn run(session: &mut Session<'_>) -> Done {
    let view: SelftestView = session.client.send("/v1/selftest", &json!({})).await?;
    if session.out.json {
        session.out.value(&view)?;
    } else {
        let row = |check: &CheckView| {
            let ok = if check.ok { "ok" } else { "WRONG" };
            vec![ok.to_owned(), check.name.clone(), check.expected.clone(), check.found.clone()]
        };
        session.out.table(&["", "packet", "expected", "found"], view.checks.iter().map(row).collect());
        let wrong = view.checks.iter().filter(|check| !check.ok).count();
        let verdict = if view.ok {
            format!("all {} known packets were answered as they should be", view.checks.len())
        } else {
            format!("{wrong} of {} known packets were answered wrongly (LB4015)", view.checks.len())
        };
        session.out.line(&verdict);
        let counted =
            "each was counted as a client's packet would be: `lb drops`, the vips and /metrics show it";
        session.out.line(counted);
    }
    Ok((!view.ok).then_some(Exit::Unhealthy))
}
