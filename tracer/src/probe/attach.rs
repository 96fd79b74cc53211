//! Attaches the hooks of a tier, one by one: what the kernel has not makes the tier less, not useless.

use anyhow::Result;

use super::tier::Purpose;

/// What became of the hooks of a tier.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Hooks that are not there, why, and what is not seen therefore.
    pub(super) missing: Vec<String>,
    /// Everything is there that tells what the busy check compared.
    pub(super) counts: bool,
    /// Everything is there that tells who opened what, and when it was closed.
    pub(super) history: bool,
}

/// Attaches hooks in their order. One that is missing is an error for refusals, and a note for the rest.
pub(super) fn attach_each<'h, H: 'h>(
    hooks: impl IntoIterator<Item = &'h H>,
    name: impl Fn(&H) -> (&'static str, Purpose),
    mut attach: impl FnMut(&H) -> Result<()>,
) -> Result<Outcome> {
    let mut outcome = Outcome {
        counts: true,
        history: true,
        ..Outcome::default()
    };
    let (mut counts, mut history) = (false, false);
    for hook in hooks {
        let (name, purpose) = name(hook);
        counts |= purpose == Purpose::Counts;
        history |= purpose == Purpose::History;
        // Of several that are of no use without each other, the first that is missing is enough.
        if purpose == Purpose::Counts && !outcome.counts {
            continue;
        }
        let Err(error) = attach(hook) else { continue };
        let Some(without) = purpose.without() else {
            return Err(error.context(format!("hook {name}")));
        };
        outcome.counts &= purpose != Purpose::Counts;
        outcome.history &= purpose != Purpose::History;
        outcome.missing.push(format!("{name}, so {without}: {error:#}"));
    }
    outcome.counts &= counts;
    outcome.history &= history;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::attach_each;
    use crate::probe::tier::{FENTRY_HOOKS, FunctionHook, KPROBE_HOOKS, Purpose, TRACEPOINT_HOOKS};

    /// On a kernel that has not these functions.
    fn on(hooks: &[FunctionHook], inlined: &[&str]) -> anyhow::Result<super::Outcome> {
        attach_each(
            hooks,
            |hook| (hook.function, hook.purpose),
            |hook| {
                if inlined.contains(&hook.function) {
                    bail!("no such function");
                }
                Ok(())
            },
        )
    }

    #[test]
    fn a_function_that_was_inlined_makes_a_tier_less_not_useless() {
        for hooks in [FENTRY_HOOKS, KPROBE_HOOKS] {
            let all = on(hooks, &[]).unwrap();
            assert!(all.counts && all.missing.is_empty());

            let without = on(hooks, &["mnt_get_count"]).unwrap();
            assert!(!without.counts);
            assert_eq!(
                without.missing,
                ["mnt_get_count, so counts are read right after the refusal: no such function"]
            );
            assert!(!on(hooks, &["propagate_mount_busy"]).unwrap().counts);

            let optional = [
                "do_dentry_open",
                "file_ra_state_init",
                "__fput",
                "copy_mnt_ns",
                "switch_task_namespaces",
                "attach_recursive_mnt",
            ];
            let without = on(hooks, &optional).unwrap();
            assert!(without.counts && without.missing.len() >= 5);
        }
    }

    #[test]
    fn without_refusals_there_is_no_tier() {
        for hooks in [FENTRY_HOOKS, KPROBE_HOOKS] {
            let error = format!("{:#}", on(hooks, &["path_umount"]).unwrap_err());
            assert_eq!(error, "hook path_umount: no such function");
        }
    }

    #[test]
    fn a_tier_without_a_busy_check_has_no_counts() {
        let name = |hook: &(&'static str, Purpose)| *hook;
        assert!(!attach_each(TRACEPOINT_HOOKS, name, |_| Ok(())).unwrap().counts);
    }
}
