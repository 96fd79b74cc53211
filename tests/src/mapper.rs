//! Devices of device-mapper, by the ioctls of linux/dm-ioctl.h: a machine has no dmsetup.

use std::{fs::File, io, os::fd::AsRawFd as _, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    holder::{PATIENCE, Skip},
    pause,
};

const CONTROL: &str = "/dev/mapper/control";
/// `_IOWR(0xfd, 0, struct dm_ioctl)`, without its number.
const COMMAND: libc::Ioctl = 0xc138_fd00_u32 as libc::Ioctl;
const CREATE: libc::Ioctl = 3;
const REMOVE: libc::Ioctl = 4;
/// With no flags it resumes.
const SUSPEND: libc::Ioctl = 6;
const LOAD: libc::Ioctl = 9;
/// Where a `struct dm_ioctl` has its fields, and its size.
const VERSION: usize = 0;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const DEVICE: usize = 40;
const NAME: usize = 48;
const UUID: usize = 176;
const SIZE: usize = 312;
/// Size of a `struct dm_target_spec`.
const TARGET: usize = 40;

/// How a call identifies its device.
#[derive(Debug, Clone, Copy)]
pub enum By {
    /// Its name.
    Name,
    /// Its uuid.
    Uuid,
    /// Its number.
    Number,
}

/// A device that maps another one; dropping this value removes it, if nobody has it open then.
#[derive(Debug)]
pub struct Mapped {
    name: String,
    uuid: String,
    number: u64,
    path: String,
}

impl Mapped {
    /// A device of that name on the first sectors of another one.
    pub fn new(name: &str, on: &str, sectors: u64) -> Result<Self> {
        if !Path::new(CONTROL).exists() {
            let skip = "this kernel has no device-mapper".to_owned();
            return Err(Skip { skip }.into());
        }
        let mut made = Self {
            name: name.to_owned(),
            uuid: format!("EBUSY-{name}"),
            number: 0,
            path: String::new(),
        };
        let mut create = made.call(By::Name, &[]);
        create[UUID..UUID + made.uuid.len()].copy_from_slice(made.uuid.as_bytes());
        control(CREATE, &mut create).context("DM_DEV_CREATE")?;
        let number = create.get(DEVICE..DEVICE + 8).context("a number")?;
        made.number = u64::from_ne_bytes(number.try_into()?);
        let mut target = vec![0; TARGET];
        target[8..16].copy_from_slice(&sectors.to_ne_bytes());
        target[24..30].copy_from_slice(b"linear");
        target.extend_from_slice(format!("{on} 0\0").as_bytes());
        target.resize(target.len().next_multiple_of(8), 0);
        let mut load = made.call(By::Name, &target);
        load[TARGET_COUNT] = 1;
        control(LOAD, &mut load).context("DM_TABLE_LOAD")?;
        control(SUSPEND, &mut made.call(By::Name, &[])).context("DM_DEV_SUSPEND")?;
        let (major, minor) = (libc::major(made.number), libc::minor(made.number));
        let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"))?;
        let disk = link.file_name().context("a disk")?;
        made.path = format!("/dev/{}", disk.to_string_lossy());
        pause::until(PATIENCE, || Ok(Path::new(&made.path).exists().then_some(())))
            .with_context(|| format!("no {}", made.path))?;
        Ok(made)
    }

    /// Its path by number.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its path by name.
    #[must_use]
    pub fn name_path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    /// Tries to remove it.
    pub fn remove(&self, by: By) -> io::Result<()> {
        control(REMOVE, &mut self.call(by, &[]))
    }

    fn call(&self, by: By, data: &[u8]) -> Vec<u8> {
        let mut call = vec![0; SIZE];
        call.extend_from_slice(data);
        let size = call.len() as u32;
        for (at, value) in [(VERSION, 4), (DATA_SIZE, size), (DATA_START, SIZE as u32)] {
            call[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        match by {
            By::Name => call[NAME..NAME + self.name.len()].copy_from_slice(self.name.as_bytes()),
            By::Uuid => call[UUID..UUID + self.uuid.len()].copy_from_slice(self.uuid.as_bytes()),
            By::Number => call[DEVICE..DEVICE + 8].copy_from_slice(&self.number.to_ne_bytes()),
        }
        call
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let _ = self.remove(By::Name);
    }
}

fn control(number: libc::Ioctl, call: &mut [u8]) -> io::Result<()> {
    let control = File::open(CONTROL)?;
    // SAFETY: the argument is a struct dm_ioctl that says how long it is; the kernel writes no more than that.
    if unsafe { libc::ioctl(control.as_raw_fd(), COMMAND | number, call.as_mut_ptr()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
