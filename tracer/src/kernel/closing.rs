//! Files that nobody has any more and that are not gone yet: the last `fput` leaves a file to the task, which drops it
//! when it returns from its system call or ends. Something else in that call may sleep before.
//!
//! Not looked at: `delayed_fput_list`, where kernel threads leave theirs for a tick (it has no way but a symbol), and
//! what a task drops already (that is on its stack alone).

use std::rc::Rc;

use super::{
    found::Carried,
    listing::note,
    memory::is_kernel_address,
    needs::{Needs, has},
    walk::Walk,
};
use crate::model::{Kind, Text};

/// Things to do of one task at the most: a table of files that is closed at its end may be large.
const WORKS_MAX: usize = 1 << 16;

pub(super) const NEEDS: Needs = needs![task_works, file_work];

impl Walk<'_, '_> {
    /// Adds the files that tasks have closed and not dropped.
    pub(super) fn closing_files(&mut self) {
        let kernel = self.kernel;
        let t = &kernel.layout.table;
        if !has(NEEDS, t) {
            note(
                self.gaps,
                false,
                "files that are being closed: the kernel's type information lacks them",
            );
            return;
        }
        let tasks: Vec<u64> = self.tasks.iter().map(|task| task.address).collect();
        let first = kernel.memory.words(&tasks, t.task_works);
        for (index, first) in first.into_iter().enumerate() {
            let Some(first) = first.filter(|first| is_kernel_address(*first)) else {
                continue;
            };
            // `callback_head.next` is its first member (5.10 to 7.2). A chain that ends otherwise is being run.
            let works = kernel.memory.chase(first, 0, 0, WORKS_MAX).nodes;
            let files: Vec<u64> = works
                .into_iter()
                .map(|work| work.wrapping_sub(u64::from(t.file_work)))
                .collect();
            // Most of what a task has to do is something else: these prove that they are files.
            for (file, path) in kernel.files_on(&files, &self.interest, false) {
                if kernel.fits(path) && kernel.file_references(&[file]) == [Some(0)] {
                    self.carried.push(Carried {
                        kind: Kind::Deferred,
                        file,
                        users: Rc::new(vec![(index, None)]),
                        held_by: Some(Text::from("a system call that is not done".to_owned())),
                        request: None,
                    });
                }
            }
        }
    }
}
