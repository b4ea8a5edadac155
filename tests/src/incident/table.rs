//! What both acts came to, beside each other.

use std::time::Duration;

use crate::witness::{Difference, Kind};

/// One way of recovering, measured.
#[derive(Debug)]
pub struct Act {
    pub name: &'static str,
    /// From the capture until the path was back.
    pub outage: Duration,
    /// From the first command until the path was back; nothing where nobody typed one.
    pub acting: Option<Duration>,
    /// Leases of the kubelet that were missed.
    pub missed: u64,
    /// The control plane called the node NotReady.
    pub not_ready: bool,
    /// Commands typed.
    pub typed: usize,
    /// What differs from before.
    pub left: Vec<Difference>,
    /// What the cluster saw in the end, where there is a real one: label and cell, the same labels in every act.
    pub cluster: Vec<(&'static str, String)>,
}

/// The table as text.
#[must_use]
pub fn table(acts: &[Act]) -> String {
    let row = |label: &str, cell: &dyn Fn(&Act) -> String| {
        let cells: String = acts.iter().map(|a| format!("{:>14}", cell(a))).collect();
        format!("{label:<44}{cells}\n")
    };
    let mut text = row("", &|a| a.name.to_owned());
    text += &row("seconds from first command to path restored", &|a| {
        a.acting.map_or_else(|| "–".to_owned(), |d| format!("{:.1}", d.as_secs_f64()))
    });
    text += &row("seconds without a path", &|a| format!("{:.1}", a.outage.as_secs_f64()));
    text += &row("leases missed", &|a| a.missed.to_string());
    text += &row("node became NotReady", &|a| if a.not_ready { "yes" } else { "no" }.to_owned());
    text += &row("commands typed", &|a| a.typed.to_string());
    for (at, (label, _)) in acts.first().into_iter().flat_map(|a| a.cluster.iter().enumerate()) {
        text +=
            &row(label, &|a| a.cluster.get(at).map(|(_, cell)| cell.clone()).unwrap_or_default());
    }
    for kind in Kind::ALL {
        text += &row(&format!("left behind: {kind}"), &|a| {
            a.left.iter().filter(|d| d.kind == kind).count().to_string()
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_act_has_a_column_and_each_row_a_cell_for_it() {
        let act = |name, missed| Act {
            name,
            outage: Duration::from_millis(28_600),
            acting: (name != "by itself").then_some(Duration::from_millis(13_640)),
            missed,
            not_ready: missed > 3,
            typed: 1,
            left: Vec::new(),
            cluster: Vec::new(),
        };
        let text = table(&[act("by hand", 4), act("by operator", 1), act("by itself", 0)]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("by hand   by operator     by itself"), "{}", lines[0]);
        assert!(lines[1].ends_with("13.6          13.6             –"), "{}", lines[1]);
        assert!(lines[3].ends_with("4             1             0"), "{}", lines[3]);
        assert!(lines[4].ends_with("yes            no            no"), "{}", lines[4]);
        assert!(lines.iter().all(|l| l.chars().count() == 44 + 42));
    }
}
