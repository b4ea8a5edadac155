//! Every row of the catalogue of faults has a live case, or a reason why it has none.

use lifeline_lab::state::Gear;
use lifeline_lab::trial;

/// A row, and what the names of its live cases hold; each has to be the start of a case's name.
const ROWS: &[(&str, &[&str])] = &[
    ("R1", &["R1_an_exit_node_", "R1_in_a_pod_that_is_kept_", "alone_R1_", "real_R1_"]),
    ("R2", &["R2_an_exit_node_", "alone_R2_", "real_R2_"]),
    ("R3", &["R3_remnants_", "R3_what_was_cleaned_", "alone_R3_", "real_R3_"]),
    ("R4", &["R4_", "alone_R4_"]),
    ("R5", &["alone_R5_a_culprit_that_is_started_again_", "alone_R5_a_culprit_that_systemd_"]),
    ("R6", &["R6_accepted_routes_", "R6_in_a_pod_", "real_R6_"]),
    ("R7", &["R7_", "real_R7_"]),
    ("R8", &["R8_", "alone_R8_", "real_R8_"]),
    ("R9", &["R9_a_split_default_", "R9_a_tunnels_default_", "alone_R9_"]),
    ("R10", &["R10_", "real_R10_"]),
    (
        "R11",
        &[
            "R11_a_deleted_",
            "R11_a_default_route_by_a_dead_",
            "R11_a_default_route_out_ranked_",
            "alone_R11_",
        ],
    ),
    ("R12", &["R12_a_blackhole_", "R12_a_refusal_", "R12_refusals_of_what_is_not_", "alone_R12_"]),
    (
        "R13",
        &[
            "R13_a_missing_main_",
            "R13_a_missing_default_",
            "R13_missing_rules_of_ipv6_",
            "alone_R13_",
        ],
    ),
    ("R14", &["R14_a_capture_of_ipv6_alone_", "R14_what_is_left_of_ipv6_alone_"]),
    (
        "R15",
        &[
            "R15_the_ways_",
            "R15_flannels_lost_device_",
            "R15_the_pods_gateway_",
            "R15_the_overlays_",
            "alone_R15_",
        ],
    ),
    ("R16", &["R16_", "alone_R16_", "real_R16_"]),
    ("R17", &["R17_", "alone_R17_"]),
    ("R18", &["R18_", "alone_R18_", "real_R18_"]),
    ("R19", &["R19_somebody_elses_", "R19_a_foreign_rule_in_front_", "alone_R19_"]),
    (
        "R20",
        &[
            "R20_another_gateway_",
            "R20_a_second_gateway_",
            "R20_a_deliberate_vpn_",
            "R20_an_uplink_",
            "R20_an_api_server_",
            "alone_R20_",
        ],
    ),
    ("R21", &["R21_", "alone_R21_"]),
    ("R22", &["R22_"]),
    ("R23", &["R23_"]),
    (
        "R24",
        &[
            "R24_a_capture_by_port_",
            "R24_a_capture_by_user_",
            "R24_a_capture_by_a_mark_",
            "R24_an_ipsec_policy_",
        ],
    ),
    ("N1", &["N1_remnants_in_the_legacy_", "N1_remnants_go_from_nft_"]),
    ("N2", &["N2_", "alone_N2_"]),
    ("N3", &["N3_a_reject_of_unknown_owner_", "N3_a_reject_in_an_inet_"]),
    ("N4", &["N4_native_rules_that_", "N4_native_rules_of_somebody_"]),
    ("N5", &["N5_", "alone_N5_"]),
    ("N6", &["N6_"]),
    ("N7", &["N7_"]),
    ("N8", &["N8_", "real_N8_"]),
    ("N9", &["N9_", "alone_N9_"]),
    ("D1", &["D1_resolv_conf_comes_back_from_", "D1_resolv_conf_that_was_a_link_"]),
    ("D2", &["D2_"]),
    ("S1", &["S1_"]),
    ("S2", &["S2_src_valid_mark_", "S2_forwarding_"]),
    (
        "K1",
        &[
            "K1_a_unit_that_was_stopped_",
            "K1_a_unit_in_its_start_limit_",
            "K1_a_masked_",
            "alone_K1_",
        ],
    ),
    ("K2", &["K2_"]),
    ("K3", &["K3_"]),
    ("K4", &["K4_a_kubelets_dead_connections_", "K4_a_kubelet_that_stands_still_"]),
    ("K5", &["K5_"]),
    ("U1", &["U1_", "real_U1_"]),
    ("U2", &["U2_a_gateway_", "U2_a_cable_"]),
    ("U3", &["U3_a_third_", "U3_a_line_on_which_", "U3_a_line_that_flaps_"]),
    ("U4", &["U4_"]),
    ("U5", &["U5_"]),
    ("A1", &["killed_at_every_step_boundary_", "alone_an_agent_that_is_killed_", "real_killed_"]),
    (
        "A2",
        &[
            "on_a_full_disk_",
            "on_a_read_only_disk_",
            "a_journal_torn_",
            "a_journal_damaged_",
            "a_journal_of_a_newer_version_",
            "A2_a_disk_that_freezes_",
        ],
    ),
    ("A3", &["without_dbus_", "A3_a_unit_whose_stop_", "A3_while_systemd_", "A3_while_journald_"]),
    (
        "A4",
        &[
            "a_missing_iptables_",
            "a_hanging_iptables_",
            "a_truncated_firewall_dump_",
            "A4_a_tool_that_hangs_",
            "A4_a_container_runtime_",
        ],
    ),
    ("A5", &["A5_"]),
    ("A6", &["the_operator_drops_off_", "real_the_operator_drops_off_"]),
    (
        "A7",
        &[
            "A7_idle_and_garbled_",
            "A7_a_fork_bomb_",
            "A7_a_hog_of_memory_",
            "A7_an_agent_with_hardly_any_memory_",
        ],
    ),
    (
        "A8",
        &[
            "A8_who_shows_no_certificate_",
            "a_certificate_of_another_authority_",
            "an_expired_certificate_",
            "a_viewer_",
            "A8_a_certificate_is_changed_while_serving_",
        ],
    ),
    ("A9", &["alone_R5_"]),
    ("A10", &["A10_"]),
    ("A11", &["A11_an_agent_that_first_sees_", "A11_a_node_that_boots_captured_"]),
    ("C1", &[]),
    ("C2", &[]),
    ("C3", &[]),
    ("C4", &[]),
    ("C5", &["real_recover_killed_at_every_step_boundary_"]),
    ("C6", &[]),
    ("C7", &[]),
    ("C8", &["real_C8_"]),
    ("C9", &[]),
    (
        "P1",
        &[
            "P1_a_restart_by_the_provider_",
            "P1_a_restart_whose_answer_is_lost_",
            "P1_whatever_a_provider_answers_",
            "P1_two_machines_that_match_",
        ],
    ),
    ("P2", &["P2_"]),
];

/// Parts of rows that no live case has, on purpose, and whole rows: what is named must not be claimed by a case, and where it is tried
/// instead.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "R16",
        "fifteen minutes, of this and of every near miss: core's quarter_hour.rs and upstream.rs, in virtual time",
    ),
    (
        "D1",
        "systemd-resolved: agent/src/act/resolv.rs says what was tried; the lab's nodes do not have it",
    ),
    ("U1", "fifteen minutes: core's quarter_hour.rs, in virtual time"),
    (
        "U5",
        "a wall clock that jumps: it is the whole machine's, and nobody may set it there; core's upstream.rs, and the age of a lease in agent/src/look/lease.rs",
    ),
    (
        "A1",
        "power loss at every entry of every plan: core's crash.rs, crash_golden.rs and crash_reset.rs",
    ),
    ("A3", "a job that is never begun: agent's act_unit.rs"),
    ("A6", "two operators at once: agent's runs.rs"),
    (
        "A11",
        "an address that changes: core's golden case r15-address-changed; slow drift has no case of its own",
    ),
    (
        "C1",
        "controller's cleanup.rs, on a real API server: finalizers alone, pods with an hour of grace, an API service that does not answer",
    ),
    ("C2", "500 pods of a dead node: controller's cleanup.rs, on a real API server"),
    (
        "C3",
        "a budget that allows nothing, 300 pods, a dead node: controller's nodes.rs, on a real API server; who is moved and who is not: cluster/drain.rs",
    ),
    ("C4", "k3s's Secret of a node's password: controller's nodes.rs, on a real API server"),
    ("C5", "found, named, quarantined and released: controller's cleanup.rs, on a real API server"),
    ("C6", "orphans of a finalized namespace: controller's cleanup.rs, on a real API server"),
    ("C7", "what Flux puts back: controller's cleanup.rs, on a real API server"),
    (
        "C8",
        "the 115 s in which cgroups that were left behind mislead the kubelet: the lab takes them away with the power, as a machine would",
    ),
    ("C9", "controller's nodes.rs and resort.rs, on a real API server"),
    (
        "P1",
        "429 with and without Retry-After, a locked machine, an action that fails, a time-out of the action: controller's vps.rs",
    ),
    ("P2", "controller's vps.rs has it without a machine"),
];

fn names() -> Vec<&'static str> {
    let all = [Gear::Quick, Gear::Real]
        .map(|gear| [trial::all(gear), trial::long(gear).to_vec()].concat());
    all.concat().iter().map(|case| case.name).collect()
}

#[test]
fn every_row_has_the_live_cases_that_are_its_own() {
    let names = names();
    let missing: Vec<String> = ROWS
        .iter()
        .flat_map(|(row, cases)| cases.iter().map(move |case| (row, case)))
        .filter(|(_, case)| !names.iter().any(|name| name.starts_with(*case)))
        .map(|(row, case)| format!("{row}: no live case begins with {case:?}"))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn no_row_is_forgotten_and_what_is_tried_elsewhere_belongs_to_one() {
    let rows = |letter: &str, last: u32| {
        (1..=last).map(move |n| format!("{letter}{n}")).collect::<Vec<_>>()
    };
    let wanted = [
        ("R", 24),
        ("N", 9),
        ("D", 2),
        ("S", 2),
        ("K", 5),
        ("U", 5),
        ("A", 11),
        ("C", 9),
        ("P", 2),
    ];
    let wanted: Vec<String> =
        wanted.iter().flat_map(|(letter, last)| rows(letter, *last)).collect();
    let listed: Vec<&str> = ROWS.iter().map(|(row, _)| *row).collect();
    assert_eq!(listed, wanted);
    let elsewhere = |row: &str| ELSEWHERE.iter().any(|(of, _)| *of == row);
    let untried = ROWS.iter().find(|(row, cases)| cases.is_empty() && !elsewhere(row));
    assert_eq!(untried, None);
    assert!(ELSEWHERE.iter().all(|(row, why)| listed.contains(row) && !why.is_empty()));
}
