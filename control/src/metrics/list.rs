//! The only list of metrics.

use super::text::{Metric, Type};

macro_rules! metrics {
    ($($constant:ident = $name:literal $kind:ident [$($label:literal)*] $help:literal;)+) => {
        $(pub(super) const $constant: Metric = Metric {
            name: $name,
            kind: Type::$kind,
            help: $help,
            labels: &[$($label),*],
        };)+

        /// Every metric, in the order of the text and of the documentation.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    BUILD_INFO = "xvip_build_info" Gauge ["version" "node" "name"]
        "Which xvip this is; always 1.";
    CONTROL_UPTIME = "xvip_control_uptime_seconds" Gauge []
        "Time since control started.";
    CONFIG_AGE = "xvip_config_age_seconds" Gauge []
        "Time since the configuration in force was accepted.";
    CONFIG_RELOAD_OK = "xvip_config_last_reload_successful" Gauge []
        "Whether the last reload went well, or there was none.";
    CONFIG_NEEDS_RESTART = "xvip_config_needs_restart" Gauge []
        "Settings that take effect when the data plane starts next.";
    DATA_PLANE_CONNECTED = "xvip_data_plane_connected" Gauge []
        "Whether control speaks with the data plane.";
    DATA_PLANE_APPLIED = "xvip_data_plane_applied" Gauge []
        "Whether the data plane runs the configuration in force.";
    EVENTS = "xvip_events_total" Counter ["kind" "severity"]
        "Changes of state, as in `xvip events`.";
    ALERTS_PENDING = "xvip_alerts_pending" Gauge ["target" "type"]
        "Changes that a target has not been told yet.";
    ALERTS_DELIVERED = "xvip_alerts_delivered_total" Counter ["target" "type"]
        "Messages delivered.";
    ALERTS_FAILED = "xvip_alert_attempts_failed_total" Counter ["target" "type"]
        "Attempts to deliver a message that failed.";
    ALERTS_GIVEN_UP = "xvip_alerts_given_up_total" Counter ["target" "type"]
        "Messages given up.";
    PROBES = "xvip_checks" Gauge []
        "Distinct checks that are run.";
    CHECK_DURATION = "xvip_check_duration_seconds" Histogram ["type"]
        "Time that a run of a check took, by its type.";
    CHECK_RUNS = "xvip_check_runs_total" Counter ["service" "real" "address" "check" "outcome"]
        "Runs of a check, by what they found.";
    CHECK_SECONDS = "xvip_check_seconds_total" Counter ["service" "real" "address" "check"]
        "Time that the runs of a check took together.";
    SERVICE_SERVING = "xvip_service_serving" Gauge ["service"]
        "Real servers that get new connections.";
    SERVICE_PANIC = "xvip_service_panic" Gauge ["service"]
        "Whether failed real servers are kept in use (panic floor).";
    SERVICE_REALS = "xvip_service_reals" Gauge ["service" "state"]
        "Real servers in each state.";
    REAL_UP = "xvip_real_up" Gauge ["service" "real" "address"]
        "Whether the real server is healthy and in service.";
    REAL_SHARE = "xvip_real_share_ratio" Gauge ["service" "real" "address"]
        "Share of its configured weight that it has.";
    REAL_STATE_AGE = "xvip_real_state_age_seconds" Gauge ["service" "real" "address"]
        "Time since its checks came to what they say.";
    SPARE_RATIO = "xvip_service_failure_load_ratio" Gauge ["service"]
        "Load of the fullest real server, by its upper threshold, if the worst other one fails.";
    SPARE_SHORT = "xvip_service_failure_short" Gauge ["service"]
        "Whether the failure of one real server is too much (N-1 warning).";
    STATUS_AGE = "xvip_data_plane_status_age_seconds" Gauge []
        "Age of what follows about the data plane.";
    DATA_PLANE_UPTIME = "xvip_data_plane_uptime_seconds" Gauge []
        "Time since the data plane started.";
    LEASE = "xvip_lease_remaining_seconds" Gauge []
        "Time for which the VIPs are still answered.";
    WARNINGS = "xvip_data_plane_warnings" Gauge []
        "Warnings of the data plane, as in `xvip status`.";
    TABLE_CAPACITY = "xvip_table_capacity" Gauge []
        "Connections that the table can hold.";
    TABLE_USED = "xvip_table_connections" Gauge []
        "Connections in the table, half-open ones and persistence templates included.";
    TABLE_HALF_OPEN = "xvip_table_half_open" Gauge []
        "Half-open connections.";
    TABLE_HALF_OPEN_MAX = "xvip_table_half_open_max" Gauge []
        "Most half-open connections that the table may hold.";
    TABLE_TEMPLATES = "xvip_table_templates" Gauge []
        "Persistence templates.";
    TABLE_BYTES = "xvip_table_bytes" Gauge []
        "Memory of the table, index included.";
    DROPS = "xvip_drops_total" Counter ["reason"]
        "Packets dropped, by reason.";
    PACKET_EVENTS = "xvip_packet_events_total" Counter ["event"]
        "What else happened to packets and connections.";
    INTERFACE_INFO = "xvip_interface_info" Gauge ["interface" "driver" "mode" "copy" "mac"]
        "How the interface is used; always 1.";
    INTERFACE_UP = "xvip_interface_up" Gauge ["interface"]
        "Whether the interface carries service traffic.";
    INTERFACE_QUEUES = "xvip_interface_queues" Gauge ["interface"]
        "Queues served.";
    INTERFACE_PACKETS = "xvip_interface_packets_total" Counter ["interface" "direction"]
        "Packets received and sent by the data plane.";
    INTERFACE_BYTES = "xvip_interface_bytes_total" Counter ["interface" "direction"]
        "Bytes received and sent by the data plane.";
    INTERFACE_KERNEL_DROPS = "xvip_interface_kernel_drops_total" Counter ["interface" "reason"]
        "Frames that the kernel dropped for the data plane.";
    WORKER_POLLS = "xvip_worker_polls_total" Counter ["worker"]
        "Turns of the poll loop.";
    WORKER_BUSY_POLLS = "xvip_worker_busy_polls_total" Counter ["worker"]
        "Turns of the poll loop that found packets.";
    WORKER_CORE = "xvip_worker_core" Gauge ["worker"]
        "Processor core of the worker.";
    WORKER_PINNED = "xvip_worker_pinned" Gauge ["worker"]
        "Whether the worker is bound to its core.";
    SERVICE_INFO = "xvip_service_info" Gauge ["service" "protocol" "listen" "forwarding" "scheduler"]
        "What the service is; always 1.";
    REAL_WEIGHT = "xvip_real_weight" Gauge ["service" "real" "address"]
        "Weight in force in the data plane.";
    REAL_NEXT_HOP = "xvip_real_next_hop_resolved" Gauge ["service" "real" "address"]
        "Whether the way to the real server is known.";
    REAL_CONNS_OPENED = "xvip_real_connections_opened_total" Counter ["service" "real" "address"]
        "Connections opened.";
    REAL_TEMPLATES = "xvip_real_templates" Gauge ["service" "real" "address"]
        "Clients tied to the real server (persistence).";
    REAL_SYN_UNANSWERED = "xvip_real_syn_unanswered_total" Counter ["service" "real" "address"]
        "SYNs that the real server left unanswered.";
    REAL_RESETS = "xvip_real_resets_total" Counter ["service" "real" "address"]
        "SYNs that the real server answered with a reset.";
    REAL_CONNS = "xvip_real_connections" Gauge ["service" "real" "address" "state"]
        "Connections, established ones and others.";
    REAL_PACKETS = "xvip_real_packets_total" Counter ["service" "real" "address" "direction"]
        "Packets to (in) and from (out) the real server.";
    REAL_BYTES = "xvip_real_bytes_total" Counter ["service" "real" "address" "direction"]
        "Bytes to (in) and from (out) the real server.";
    HA_ROLE = "xvip_ha_role" Gauge ["group" "role"]
        "Whether this node has that role for the group.";
    HA_EPOCH = "xvip_ha_epoch" Gauge ["group"]
        "Number of the last ownership known.";
    HA_DEGRADED = "xvip_ha_degraded" Gauge ["group"]
        "Whether this node owns the group and its takeover does not hold.";
    HA_PEER_UP = "xvip_ha_peer_up" Gauge []
        "Whether the other node is heard.";
    HA_MAINTENANCE = "xvip_ha_maintenance" Gauge []
        "Whether nothing moves between the nodes by itself.";
    HA_EVIDENCE = "xvip_ha_evidence" Gauge ["node" "kind"]
        "Interfaces that are up and ping targets that are reached, as each node says.";
    HA_PATH_UP = "xvip_ha_path_up" Gauge ["path"]
        "Whether the path brings heartbeats.";
    HA_BEATS = "xvip_ha_beats_total" Counter ["path"]
        "Heartbeats taken.";
    HA_BEATS_LOST = "xvip_ha_beats_lost_total" Counter ["path"]
        "Heartbeats that never came.";
    HA_BEATS_LATE = "xvip_ha_beats_late_total" Counter ["path"]
        "Gaps between heartbeats that were longer than warntime.";
    HA_GAP = "xvip_ha_gap_seconds" Gauge ["path" "quantile"]
        "Distribution of the gaps between heartbeats; 1 is the longest.";
    HA_WAKE_LATE = "xvip_ha_wake_late_seconds" Gauge []
        "How late the thread of the heartbeat was at worst.";
    HA_REFUSED = "xvip_ha_refused_total" Counter ["reason"]
        "Messages that claimed to be the other node's and were refused.";
    HA_FENCED_ITSELF = "xvip_ha_fenced_itself_total" Counter []
        "Times this node had not been running for longer than its lease.";
    HA_SYNCED = "xvip_ha_synced" Gauge ["node"]
        "Whether that node knows every connection of the other one.";
    HA_WORTH = "xvip_ha_connections" Gauge []
        "Connections here that the other node ought to know.";
    HA_WOULD_LIVE = "xvip_ha_connections_safe" Gauge []
        "Of them, those that would live if this node died now.";
    HA_OLDEST = "xvip_ha_oldest_unacknowledged_seconds" Gauge []
        "Age of the oldest change that the other node has not acknowledged.";
}
