# Starts an agent beside the one that does not come up. $cluster and $node are set in front of this.
set -e
umask 077
program=/usr/local/bin/lifeline-agent.once
[ -x "$program" ] || program=/usr/local/bin/lifeline-agent
config=/run/lifeline-once.toml
go() {
  systemctl stop lifeline-once.service >/dev/null 2>&1 || true
  # As its own unit, as far as a node's repair needs it: no second door is opened by it, and systemd forgets it when it stops.
  timeout 100 systemd-run --quiet --collect --unit=lifeline-once --service-type=notify \
    --description='Lifeline: an agent lent to this node for one recovery' \
    --property=RuntimeDirectory=lifeline-once --property=RuntimeDirectoryMode=0700 --property=KillMode=mixed \
    --property=TimeoutStartSec=90 --property=TimeoutStopSec=90 --property=OOMPolicy=continue \
    --property=OOMScoreAdjust=-900 --property=MemoryMax=512M --property=TasksMax=256 --property=UMask=0077 \
    "$program" --config "$config"
}
# What the node's own says of API servers, marks and units holds for a lent one too; it may also be why its own does not start.
if [ -r /etc/lifeline/agent.toml ]; then
  { echo 'run = "/run/lifeline-once"'; grep -v '^run[ =]' /etc/lifeline/agent.toml; } > "$config"
  if go 2>/dev/null; then exit 0; fi
fi
printf 'cluster = "%s"\nnode = "%s"\nrun = "/run/lifeline-once"\n[policy]\nmode = "guard"\n' "$cluster" "$node" > "$config"
if ! go >/dev/null 2>&1; then
  # What the program itself said, rather than that its job failed.
  said=$(journalctl -u lifeline-once.service -n 20 -o cat --no-pager 2>/dev/null | grep '^Error:' | tail -n 1) || true
  echo "${said:-its unit does not start}" >&2
  exit 1
fi
