#![no_main]

ebusy_fuzz::target!("event");
