//! `ctl rights`: the roles its verbs need, and which of that you may do.

use crate::cli::Global;
use crate::cluster::desk::Desk;
use crate::cluster::{kinds, rights};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::out::Out;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl rights                     which verbs your user may use on this cluster
  ctl rights cleanup             the ClusterRole it needs; for the kinds this cluster has
  ctl rights --break-glass       secrets and namespaces/finalize, for the last resort alone

Exit codes: 0 everything is allowed, or the role was printed; 1 could not be asked; 3 something is not allowed";

/// Arguments of `ctl rights`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Print the role of this verb
    #[arg(value_parser = rights::VERBS)]
    verb: Option<String>,
    /// Print the role of the last resort
    #[arg(long, conflicts_with = "verb")]
    break_glass: bool,
}

/// `-o json`.
#[derive(Serialize)]
struct RightsJson {
    verb: String,
    rights: Vec<rights::Right>,
    lacking: Vec<String>,
}

/// Runs `ctl rights`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    if args.break_glass {
        out.document(&rights::role("lifeline-break-glass", &rights::break_glass()));
        return Ok(Exit::Done);
    }
    let desk = Desk::open(global, out).await?;
    let kinds = kinds::look(&desk.cluster).await?;
    if let Some(verb) = &args.verb {
        out.document(&rights::role(&format!("lifeline-{verb}"), &rights::of(verb, &kinds)));
        return Ok(Exit::Done);
    }
    let mut all = Vec::new();
    for verb in rights::VERBS {
        let needs = rights::of(verb, &kinds);
        let lacking = rights::lacking(&desk.cluster, &needs).await?;
        match lacking.as_slice() {
            [] => out.print(format!("{verb}: allowed")),
            _ => out.print(format!("{verb}: not allowed: {}", lacking.join(", "))),
        }
        all.push(RightsJson { verb: verb.to_owned(), rights: needs, lacking });
    }
    out.json(&all)?;
    Ok(match all.iter().all(|r| r.lacking.is_empty()) {
        true => Exit::Done,
        false => Exit::Unhealthy,
    })
}
