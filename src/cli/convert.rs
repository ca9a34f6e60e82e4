//! `aurora-quant convert`: from flags to a recipe, the job, and its summary.

use super::args::{Common, Convert};
use super::progress::Progress;
use super::{signals, ui};
use crate::job::{self, Destination};
use crate::plan::Plan;
use crate::record::Record;
use crate::{Error, Result};

mod beside;
mod flags;
mod pruned;
mod removed;
mod scaled;
mod solved;
mod summary;

/// Runs the command.
pub fn run(args: &Convert, common: &Common) -> Result<()> {
    let recipe = flags::recipe(args)?;
    let job = job::prepare(&recipe)?;
    refuse_fallbacks(job.plan(), args.strict)?;
    let to = Destination {
        path: args.output.clone(),
        replace: args.force,
        resume: args.solving.resume,
        strict: args.strict,
        hash: common.json || args.record.is_some(),
    };
    beside::check(args, &recipe, &job.output(&to))?;
    let record = match args.dry_run {
        true => job.dry_run(&to),
        false => job.run(&to, &Progress::new(common, signals::stop_flag()?))?,
    };
    let record = Record::Convert(Box::new(record));
    beside::write(args, &recipe, &record)?;
    if common.json {
        return ui::print_json(&record);
    }
    let Record::Convert(record) = record else { unreachable!("made above") };
    if args.dry_run {
        ui::print(&summary::plan_text(job.plan(), &record))?;
    }
    summary::print(&record, job.plan(), common);
    Ok(())
}

fn refuse_fallbacks(plan: &Plan, strict: bool) -> Result<()> {
    let lines: Vec<String> = plan.fallbacks().map(summary::fallback_line).collect();
    if strict && !lines.is_empty() {
        let what = format!(
            "`strict`: {} of {} tensors cannot have the requested type\n  {}",
            lines.len(),
            plan.tensors.len(),
            lines.join("\n  ")
        );
        return Err(Error::conflict(["strict", "type"], what));
    }
    Ok(())
}
