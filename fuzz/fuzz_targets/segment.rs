#![no_main]

ebusy_fuzz::target!("segment");
