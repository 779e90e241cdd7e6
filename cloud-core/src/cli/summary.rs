//! The last line of a run at `-v`: what it cost the line and the store.

use std::time::Duration;

use super::logging::OUTCOME;
use crate::store::Traffic;
use crate::units::pretty_size;

/// Says what the tool with these words took, unless no store was asked for anything.
pub(super) fn tell(words: &str, elapsed: Duration) {
    let traffic = Traffic::until_now();
    if traffic.requests == 0 {
        return;
    }
    // Whole milliseconds.
    let seconds = (elapsed.as_secs_f64() * 1e3).round() / 1e3;
    tracing::info!(
        target: OUTCOME,
        bytes_sent = traffic.sent,
        bytes_received = traffic.received,
        seconds,
        requests = traffic.requests,
        retries = traffic.retries,
        "{}",
        line(words, seconds, traffic)
    );
}

fn line(words: &str, seconds: f64, traffic: Traffic) -> String {
    let Traffic {
        requests,
        retries,
        sent,
        received,
    } = traffic;
    let times = |count: u64, one: &str, more: &str| {
        let words = if count == 1 { one } else { more };
        format!("{count} {words}")
    };
    format!(
        "Barman cloud {words} sent {} and received {} in {seconds:.3} s, with {} and {}",
        pretty_size(sent),
        pretty_size(received),
        times(requests, "request", "requests"),
        times(retries, "retry", "retries"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_in_words() {
        let traffic = |requests, retries| Traffic {
            requests,
            retries,
            sent: 16 << 20,
            received: 700,
        };
        assert_eq!(
            line("restore", 0.25, traffic(1, 0)),
            "Barman cloud restore sent 16.0 MiB and received 700 B in 0.250 s, with 1 request and \
             0 retries"
        );
        let line = line("keep", 1.0, traffic(2, 1));
        assert!(line.ends_with("with 2 requests and 1 retry"), "{line}");
    }
}
