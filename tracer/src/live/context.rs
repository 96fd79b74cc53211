//! What every follower works with: this kernel and its mounts, who is who, what the user asked for; and the stream that it
//! writes to.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_common::HOST;

use super::{
    appeared::Appeared,
    host::{Host, own_namespace},
    identities::Identities,
    keepers::Keepers,
    mounts::MountsView,
    options::Options,
    picture::Picture,
    refused::{Asked, Found},
    target::mount_key,
    watched::WatchTable,
};
use crate::{
    capture::Recorder,
    identity::Containers,
    incident::{Analyzer, Output},
    kernel::Kernel,
    model::{Process, Text},
    probe::Probes,
    stream::{Record, Start},
};

/// The running host, and what is known of it.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) host: Host,
    pub(super) probes: Probes,
    pub(super) identities: Identities,
    pub(super) options: Options,
    pub(super) picture: Picture,
    pub(super) table: WatchTable,
    pub(super) appeared: Appeared,
    pub(super) analyzer: Analyzer,
    pub(super) recorder: Option<Recorder>,
    output: Vec<Output>,
    causes: u64,
}

impl Context {
    /// Looks at the mounts for the first time.
    pub(super) fn new(host: Host, probes: Probes, options: Options, start: Start) -> Self {
        let containers = Arc::new(Containers::new("/proc", "/"));
        let view = MountsView::read(host.kernel(&probes.reader), host.task());
        containers.learn_all(view.paths_of(own_namespace()));
        let mut context = Self {
            appeared: Appeared::at_start(&view),
            identities: Identities::new(host.clock, containers, options.cmdline),
            analyzer: Analyzer::new(start),
            host,
            probes,
            options,
            picture: Picture::new(view),
            table: WatchTable::default(),
            recorder: None,
            output: Vec::new(),
            causes: 0,
        };
        if context.options.command {
            context.table.watch_new_mounts(&context.picture.view);
        }
        context.update_table();
        context
    }

    /// Kernel memory. A look begins.
    pub(super) fn kernel(&self) -> Kernel<'_> {
        self.host.kernel(&self.probes.reader)
    }

    /// Completes a process that the kernel named.
    pub(super) fn complete(&self, process: &Process, start: u64) -> Process {
        self.identities.complete(self.kernel(), process, start)
    }

    /// Completes the process that called, with those that asked it to.
    pub(super) fn complete_caller(&self, process: &Process, start: u64) -> Process {
        self.identities.complete_caller(self.kernel(), process, start)
    }

    /// Writes a record to the stream: to the capture, and to the analysis.
    pub(super) fn push(&mut self, record: Record) {
        if let Some(recorder) = &mut self.recorder {
            recorder.push(&record, self.analyzer.is_quiet());
        }
        let output = self.analyzer.push(record);
        self.output.extend(output);
    }

    /// What the analysis has said since the last time.
    pub(super) fn take_output(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.output)
    }

    /// A new number for what is followed by one.
    pub(super) fn number(&mut self) -> u64 {
        self.causes += 1;
        self.causes
    }

    /// Whether the user wants to see what was refused there, or to this caller.
    pub(super) fn is_shown(&self, path: &Text, caller: &Process) -> bool {
        let own = std::process::id();
        self.options.all
            || self.options.patterns.covers(path.as_bytes())
            || (self.options.command && caller.parents.iter().any(|parent| parent.pid == own))
    }

    /// Whether the user wants to see a refused call: shown is what is shown of umounts, and what a watched mount keeps.
    pub(super) fn is_operation_shown(&self, path: &Text, caller: &Process, found: &Found) -> bool {
        self.is_shown(path, caller)
            || found
                .holders
                .iter()
                .filter_map(|holder| holder.seen_as.as_ref())
                .any(|seen| self.options.patterns.covers(seen.as_bytes()))
    }

    /// Looks for what keeps the target of a refused call, after a new look at the mounts where that is asked for; returns
    /// how long it took as well.
    pub(super) fn look_for(&mut self, asked: &Asked, refresh: bool) -> (Found, Duration) {
        let began = Instant::now();
        if refresh {
            self.refresh();
        }
        let keepers = Keepers::new(
            &self.host,
            &self.probes.reader,
            &self.identities,
            &self.picture.view,
            asked.namespace,
        );
        let found = asked.look(&keepers);
        (found, began.elapsed())
    }

    /// Looks at the mounts again.
    pub(super) fn refresh(&mut self) {
        let began = Instant::now();
        let kernel = self.host.kernel(&self.probes.reader);
        self.picture
            .refresh(kernel, self.host.task(), self.identities.containers());
        self.appeared.update(&self.picture.view);
        self.update_table();
        self.picture.rest_after(began.elapsed());
        log::debug!(
            "looked at {} mount namespaces in {:?}",
            self.picture.view.namespaces.len(),
            began.elapsed()
        );
    }

    /// Looks again for somebody who may ask as often as they like: not before it is due.
    pub(super) fn refresh_for(&mut self, source: u64) {
        if source == HOST || self.picture.is_rested() {
            self.refresh();
        }
    }

    /// Reads about the containers that have appeared, as far as they are there still.
    pub(super) fn learn_containers(&mut self) {
        for (key, path) in self.appeared.due(Instant::now()) {
            let mount = self.kernel().mount(key.address);
            if mount.is_some_and(|mount| mount_key(&mount) == key && mount.namespace != 0) {
                self.identities.containers().learn(&path);
            }
        }
    }

    fn update_table(&mut self) {
        let kernel = self.host.kernel(&self.probes.reader);
        self.table.update(
            kernel,
            &self.picture.view,
            &self.options.patterns,
            &mut self.probes.watched,
        );
    }
}
