//! Reports to render in tests, with advice.

pub(super) use crate::model::samples::*;
use crate::{
    advice::{advise_incident, advise_who},
    model::{Holder, Incident, Who, samples},
};

pub(super) fn incident(holders: Vec<Holder>) -> Incident {
    let mut incident = samples::incident(holders);
    advise_incident(&mut incident);
    incident
}

pub(super) fn who(holders: Vec<Holder>) -> Who {
    let mut who = samples::who(holders);
    advise_who(&mut who);
    who
}
