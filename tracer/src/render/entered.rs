//! How a holder came into the mount namespace, in a line.

use super::{names, times::moment, view::View};
use crate::{
    model::{Holder, WayIn},
    text::{Line, short_name},
};

/// `entered the mount namespace of ci/wf "main" by setns at 14:19:48`; `None` where the holder is where it was born.
pub(super) fn way_in(holder: &Holder, view: View<'_>) -> Option<Line> {
    let entered = holder.entered.as_deref()?;
    let line = Line::sub("way in");
    Some(match entered.operation {
        WayIn::Outside => {
            let own = entered.from?;
            let verb = if entered.time.is_some() { "opened" } else { "held" };
            line.words(format!("{verb} from outside: its own mount namespace is {own}"))
        }
        WayIn::Setns => {
            let line = match &entered.by {
                Some(by) => {
                    let name = short_name(by.comm.as_bytes());
                    line.words(format!("its ancestor {name} {} ", by.pid))
                }
                None => line,
            };
            let space = if entered.by.is_some() {
                "mnt ns"
            } else {
                "mount namespace"
            };
            let line = match &entered.container {
                Some(container) => {
                    names::container(line.words(format!("entered the {space} of ")), container)
                }
                None => line.words(format!("entered mount namespace {}", entered.namespace)),
            };
            let line = line.words(" by setns");
            let line = match entered.time {
                Some(time) => line.words(format!(" at {}", moment(time, view.now, view.zone))),
                None => line,
            };
            match entered.from {
                Some(from) => line.maybe(3, format!(", from {from}")),
                None => line,
            }
        }
        WayIn::Unshare | WayIn::Clone | WayIn::Unknown => return None,
    })
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use crate::{
        model::{Entered, Holder, Parent, WayIn},
        render::{
            holder::block,
            samples::{self, at},
            view::View,
        },
    };

    fn fifth(entered: Entered) -> Option<String> {
        let target = samples::target();
        let view = View {
            target: &target,
            attempts: None,
            now: at(2_463),
            zone: &TimeZone::UTC,
        };
        let holder = Holder {
            entered: Some(Box::new(entered)),
            ..samples::holder()
        };
        assert_eq!(block(&holder, view, 4).len(), 4);
        block(&holder, view, 5).get(4).cloned()
    }

    #[test]
    fn the_way_in() {
        let setns = Entered {
            time: Some(at(-2_000)),
            operation: WayIn::Setns,
            namespace: 4_026_533_012,
            from: Some(4_026_531_841),
            container: samples::target().container,
            by: None,
        };
        let lines = [
            setns.clone(),
            Entered {
                container: None,
                from: None,
                time: None,
                ..setns.clone()
            },
            Entered {
                by: Some(Parent {
                    pid: 4711,
                    comm: "nsenter".into(),
                    ..Parent::default()
                }),
                ..setns.clone()
            },
            Entered {
                operation: WayIn::Outside,
                ..setns.clone()
            },
            Entered {
                operation: WayIn::Outside,
                time: None,
                ..setns.clone()
            },
        ]
        .map(|entered| fifth(entered).unwrap());
        insta::assert_snapshot!(lines.join("\n"), @r#"
        way in  entered the mount namespace of ci/wf-build-7h2kq "main" by setns at 03:43:15, from 4026531841
        way in  entered mount namespace 4026533012 by setns
        way in  its ancestor nsenter 4711 entered the mnt ns of ci/wf-build-7h2kq "main" by setns at 03:43:15
        way in  opened from outside: its own mount namespace is 4026531841
        way in  held from outside: its own mount namespace is 4026531841
        "#);
        // A namespace of its own is no way in.
        let unshare = Entered {
            operation: WayIn::Unshare,
            ..setns
        };
        assert_eq!(fifth(unshare), None);
    }
}
