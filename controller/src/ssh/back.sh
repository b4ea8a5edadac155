# Takes a lent agent away. Its rules and routes go with it unless the node's own agent runs, whose they are then.
set -e
program=/usr/local/bin/lifeline-agent.once
[ -x "$program" ] || program=/usr/local/bin/lifeline-agent
config=/run/lifeline-once.toml
timeout 100 systemctl stop lifeline-once.service 2>/dev/null || true
if [ -e "$config" ] && ! systemctl is-active --quiet lifeline-agent.service; then
  timeout 60 "$program" --config "$config" cleanup >/dev/null
fi
rm -f /usr/local/bin/lifeline-agent.once "$config"
