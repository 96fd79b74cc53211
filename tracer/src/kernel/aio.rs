//! Requests of AIO (`io_submit`) that keep their files: those that wait for an event, or that a driver can cancel, are in
//! a list of their context, those that sync are what a worker does. Contexts belong to an address space, by number
//! (`fs/aio.c`, the same from 5.10 to 7.2).
//!
//! Not looked at: requests that a block device completes, which nothing leads to.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    found::{Carried, Request, unique},
    listing::{Listing, note},
    memory::is_kernel_address,
    needs::{Needs, has},
    task::Task,
    walk::Walk,
};
use crate::model::{AIO_REQUEST, Kind, Text};

/// Contexts of one address space at the most: each counts against `fs.aio-max-nr`, 65536 unless it was raised.
const CONTEXTS_MAX: u32 = 1 << 16;
/// Requests at the most: of one context, and of all.
const REQUESTS_MAX: usize = 1 << 16;
const ALL_REQUESTS_MAX: usize = 1 << 20;

pub(super) const NEEDS: Needs = needs![
    mm_aio,
    aio_table_count,
    aio_table,
    aio_context_number,
    aio_context_requests,
    aio_request_link,
    aio_request_context,
    aio_request_file,
];

impl Walk<'_, '_> {
    /// Adds the files of requests to those that something carries. They are those of who has the address space.
    pub(super) fn aio_requests(&mut self) {
        let t = &self.kernel.layout.table;
        // There is no AIO in this kernel.
        if t.mm_aio == ABSENT {
            return;
        }
        if !has(NEEDS, t) {
            let what = "requests of AIO: the kernel's type information lacks them";
            note(self.gaps, false, what);
            return;
        }
        let spaces = unique(self.census.spaces.keys().copied());
        let requests = self
            .kernel
            .aio_requests(&spaces, self.tasks)
            .or_note(self.gaps, "the requests of AIO changed under the walk");
        let mut requests: Vec<Request> = requests.into_iter().collect();
        requests.sort_unstable();
        for asked in requests {
            let users = self
                .census
                .spaces
                .get(&asked.space)
                .map_or(&[][..], Vec::as_slice);
            self.carried.push(Carried {
                kind: Kind::Kernel,
                file: asked.file,
                users: Rc::new(users.iter().map(|index| (*index, None)).collect()),
                held_by: Some(Text::from(AIO_REQUEST.to_owned())),
                request: Some(asked),
            });
        }
    }
}

impl Kernel<'_> {
    /// The requests of address spaces that are in a list or that a worker does, and whether the lists were whole.
    pub(super) fn aio_requests(self, spaces: &[u64], tasks: &[Task]) -> Listing<HashSet<Request>> {
        let t = &self.layout.table;
        if spaces.is_empty() || !has(NEEDS, t) {
            return Listing::new(HashSet::new(), true);
        }
        let Listing {
            items: contexts,
            mut complete,
        } = self.aio_contexts(spaces);
        let mut left = ALL_REQUESTS_MAX;
        // Context and request.
        let mut found = Vec::new();
        for context in contexts.keys() {
            let head = context.wrapping_add(u64::from(t.aio_context_requests));
            let ring = self.memory.ring(head, left.min(REQUESTS_MAX));
            // It is protected by a lock: what was taken out under the walk leads nowhere, or into another list.
            complete &= ring.complete;
            left -= ring.nodes.len();
            let link = u64::from(t.aio_request_link);
            found.extend(
                ring.nodes
                    .into_iter()
                    .map(|node| (*context, node.wrapping_sub(link))),
            );
        }
        if !contexts.is_empty() && t.aio_request_sync != ABSENT {
            let works = self.works_under_way(tasks).into_iter();
            let requests: Vec<u64> = works
                .map(|work| work.wrapping_sub(u64::from(t.aio_request_sync)))
                .collect();
            // Most of what workers do is something else. This leads to a context.
            let of = self.memory.words(&requests, t.aio_request_context);
            found.extend(requests.into_iter().zip(of).filter_map(|(request, context)| {
                let context = context.filter(|context| contexts.contains_key(context))?;
                Some((context, request))
            }));
        }
        let requests: Vec<u64> = found.iter().map(|(_, request)| *request).collect();
        let of = self.memory.words(&requests, t.aio_request_context);
        let files = self.memory.words(&requests, t.aio_request_file);
        let found = found
            .into_iter()
            .zip(of.into_iter().zip(files))
            // One that was done meanwhile may be of another context.
            .filter(|((context, _), (of, _))| *of == Some(*context))
            .filter_map(|((context, request), (_, file))| {
                Some(Request {
                    space: contexts[&context],
                    context,
                    kiocb: request,
                    file: file.filter(|file| is_kernel_address(*file))?,
                })
            })
            .collect();
        Listing::new(found, complete)
    }

    /// The contexts of address spaces, each with its own, and whether all could be read.
    fn aio_contexts(self, spaces: &[u64]) -> Listing<HashMap<u64, u64>> {
        let t = &self.layout.table;
        let tables = self.memory.words(spaces, t.mm_aio);
        // An address space that could not be read has ended.
        let (spaces, tables): (Vec<u64>, Vec<u64>) = spaces
            .iter()
            .zip(tables)
            .filter_map(|(space, table)| Some((*space, table.filter(|table| is_kernel_address(*table))?)))
            .unzip();
        let counts = self.memory.halves(&tables, t.aio_table_count);
        let mut complete = true;
        let mut contexts = HashMap::new();
        for ((space, table), count) in spaces.into_iter().zip(tables).zip(counts) {
            let Some(count) = count.filter(|count| *count <= CONTEXTS_MAX) else {
                complete = false;
                continue;
            };
            let slots: Vec<u64> = (0..u64::from(count))
                .map(|slot| table.wrapping_add(u64::from(t.aio_table) + slot * 8))
                .collect();
            let (numbers, found): (Vec<u32>, Vec<u64>) = (0..)
                .zip(self.memory.words(&slots, 0))
                .filter_map(|(slot, context)| {
                    Some((slot, context.filter(|context| is_kernel_address(*context))?))
                })
                .unzip();
            // A context knows its place; one that was freed with its table has another, or none.
            let known = self.memory.halves(&found, t.aio_context_number);
            let found = found.into_iter().zip(numbers.into_iter().zip(known));
            contexts.extend(
                found.filter_map(|(context, (slot, number))| {
                    (number == Some(slot)).then_some((context, space))
                }),
            );
        }
        Listing::new(contexts, complete)
    }
}
