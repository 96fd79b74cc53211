#![no_main]

ebusy_fuzz::target!("boltdb");
