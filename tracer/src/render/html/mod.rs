//! A report as one page of HTML that needs nothing else: no script, no network, readable by somebody who has never
//! seen ebusy.

mod again;
mod incident;
mod slow;
mod summary;
mod text;
mod timeline;
mod verdict;

use std::collections::VecDeque;

use base64::Engine as _;
use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};

use self::text::{Page, Words};
use crate::report::{Finding, Summary};

const STYLE: &str = include_str!("style.css");
const GUIDE: &str = include_str!("guide.html");

/// A page in the making: of many incidents the latest are told one by one, the rest in the summary.
#[derive(Debug)]
pub struct Html {
    zone: TimeZone,
    limit: usize,
    /// Each with its row in the list of all.
    incidents: VecDeque<(String, String)>,
    left_out: u64,
}

impl Html {
    /// An empty page for so many incidents, with times of this zone.
    #[must_use]
    pub fn new(zone: TimeZone, limit: usize) -> Self {
        Self {
            zone,
            limit,
            incidents: VecDeque::new(),
            left_out: 0,
        }
    }

    /// Adds an incident, with what is to be said of its recurrence and of its log lines.
    pub fn incident(&mut self, finding: &Finding, notes: &[String]) {
        let mut page = Page::default();
        incident::incident(&mut page, finding, notes, &self.zone);
        let mut row = Page::default();
        incident::row_of_list(&mut row, &finding.incident, &self.zone);
        self.incidents.push_back((row.0, page.0));
        if self.incidents.len() > self.limit {
            self.incidents.pop_front();
            self.left_out += 1;
        }
    }

    /// The page, with lines of logs and the number of the incident that explains each.
    #[must_use]
    pub fn finish(self, summary: &Summary, log: &[(String, Option<u64>)], source: &str) -> String {
        let mut page = Page::default();
        let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
        page.put(format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}'; \
             base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"referrer\" content=\"no-referrer\">\n\
             <title>Refused umounts: {source}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
            source = Words(source)
        ));
        summary::header(&mut page, summary, source, &self.zone);
        page.put(format_args!("<main>\n"));
        summary::summary(&mut page, summary, &self.zone);
        if self.left_out > 0 {
            page.put(format_args!(
                "<p class=\"warn\">The latest {} incidents are told below; {} earlier ones are in the summary only. \
                 Choose with <code>--since</code>, <code>--until</code>, <code>--target</code>, or raise \
                 <code>--limit</code>.</p>\n",
                self.incidents.len(),
                self.left_out
            ));
        }
        if self.incidents.len() > 1 {
            page.put(format_args!(
                "<section class=\"card\">\n<h3>Incidents</h3>\n<table><tr><th></th><th>first seen</th><th>target</th>\
                 <th>held by</th><th class=\"n\">attempts</th><th>outcome</th></tr>\n"
            ));
            for (row, _) in &self.incidents {
                page.0.push_str(row);
            }
            page.put(format_args!("</table>\n</section>\n"));
        }
        for (_, incident) in &self.incidents {
            page.0.push_str(incident);
        }
        summary::log(&mut page, log);
        page.put(format_args!("</main>\n<footer>\n{GUIDE}"));
        page.put(format_args!(
            "<p>Written by ebusy {}. This page loads nothing and sends nothing.</p>\n</footer>\n</body>\n</html>\n",
            env!("CARGO_PKG_VERSION")
        ));
        page.0
    }
}
