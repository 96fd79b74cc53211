//! What was lost, and on whose account: by the kernel programs, while records were taken, and by the followers.

use std::collections::BTreeMap;

use anyhow::Result;
use tracer_common::{HOST, Loss, Source};

use super::{context::Context, others::Others};
use crate::{
    identity::boot_nanos,
    incident::Skipped,
    probe::{Losses, skipped_runs},
    stream::{Lost, Noise, Record, process_of},
};

/// What was lost so far.
#[derive(Debug, Default)]
pub(super) struct LossAccount {
    /// While records were taken.
    pub(super) own: Losses,
    /// All of it, as it was last written to the stream.
    told: Losses,
    noise: Vec<Noise>,
}

impl LossAccount {
    /// What was lost, less what single sources lost of their own.
    pub(super) fn losses(&self) -> &Losses {
        &self.told
    }

    /// Who did more than there is room for.
    pub(super) fn noise(&self) -> &[Noise] {
        &self.noise
    }

    /// Writes to the stream what has changed. `skipped` is what followers had no room for by source, `single` what has none.
    pub(super) fn tell(
        &mut self,
        context: &mut Context,
        others: &Others,
        skipped: Vec<(&'static str, &Skipped)>,
        single: &[(&'static str, u64)],
    ) -> Result<()> {
        let noisy = context.probes.sources.noisy(boot_nanos());
        let (losses, noise) = {
            let mut skipped = skipped;
            let history = context.analyzer.history();
            skipped.push(("history: too many open files", &history.forgotten));
            skipped.push((
                "mount namespaces entered: too many",
                history.forgotten_enterings(),
            ));
            skipped.push((
                "earlier attempts: too many mounts",
                context.analyzer.forgotten_attempts(),
            ));
            (
                self.sum(context, &skipped, single)?,
                self.by_source(context, others, &skipped, noisy),
            )
        };
        if losses != self.told || noise != self.noise {
            self.told = losses.clone();
            self.noise.clone_from(&noise);
            let time = boot_nanos();
            context.push(Record::Lost(Lost { time, losses, noise }));
        }
        Ok(())
    }

    fn sum(
        &self,
        context: &Context,
        skipped: &[(&'static str, &Skipped)],
        single: &[(&'static str, u64)],
    ) -> Result<Losses> {
        let mut losses = context.probes.losses.read()?;
        for (what, count) in &self.own.0 {
            losses.add(what.clone(), *count);
        }
        for (what, count) in skipped_runs(context.probes.reader.ebpf()) {
            losses.add(what, count);
        }
        for (what, count) in context.probes.missed() {
            losses.add(what, count);
        }
        losses.add("watch table: full", context.table.full + context.table.crowded);
        losses.add("containers: too many to read about", context.appeared.skipped);
        for (what, count) in single {
            losses.add(*what, *count);
        }
        for (what, skipped) in skipped {
            losses.add(*what, skipped.get(&HOST).copied().unwrap_or(0));
        }
        Ok(losses)
    }

    /// Who did more than there is room for, and what was lost of that.
    fn by_source(
        &self,
        context: &Context,
        others: &Others,
        skipped: &[(&'static str, &Skipped)],
        noisy: Vec<(u64, Source)>,
    ) -> Vec<Noise> {
        let mut noise: BTreeMap<u64, Noise> = BTreeMap::new();
        for (source, lost) in others.lost() {
            let entry = noise.entry(*source).or_default();
            entry.losses = lost.clone();
        }
        for (what, skipped) in skipped {
            for (source, count) in skipped.iter().filter(|(source, _)| **source != HOST) {
                noise.entry(*source).or_default().losses.add(*what, *count);
            }
        }
        for (user, namespaces) in &context.picture.crowded {
            let entry = noise.entry(u64::from(*user)).or_default();
            entry.by.uid = Some(*user);
            let what = "mount namespace: more mounts than ebusy looks at";
            entry.losses.add(what, *namespaces);
        }
        for (source, counted) in noisy {
            let entry = noise.entry(source).or_default();
            for (loss, lost) in Loss::ALL.iter().zip(counted.lost) {
                entry.losses.add(loss.name(), lost);
            }
            let before = self.noise.iter().find(|told| told.source == source);
            let known = before.filter(|told| told.by.pid == counted.pid);
            entry.by = match known {
                Some(told) => told.by.clone(),
                None => context.complete(&process_of(&counted), counted.start),
            };
        }
        for (source, entry) in &mut noise {
            entry.source = *source;
        }
        noise.into_values().collect()
    }
}
