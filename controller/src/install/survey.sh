# What is on a machine, a line each; changes nothing.
say() { printf '%s=%s\n' "$1" "$2"; }
have() { [ -e "$1" ] && echo yes || echo no; }
sum() { sha256sum "$1" 2>/dev/null | cut -d ' ' -f 1; }
count() { find "$@" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l; }
say user "$(id -u)"
say system "$(uname -s)"
say arch "$(uname -m)"
say host "$(uname -n)"
say clock "$(date +%s)"
say systemd "$([ -d /run/systemd/system ] && systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
say addresses "$(hostname -I 2>/dev/null)"
say k3s "$(systemctl is-active k3s-agent.service 2>/dev/null)"
say balancer "$(ls /var/lib/rancher/k3s/agent/etc/k3s-*load-balancer.json 2>/dev/null | head -n 1)"
say free_kb "$(df -Pk /usr/local/bin | awk 'NR == 2 { print $4 }')"
say port "$(ss -Hltn 'sport = :7443' 2>/dev/null | head -n 1 | awk '{ print $4 }')"
say package "$(dpkg-query -W -f='${Version}' lifeline-agent 2>/dev/null)"
say agent "$(/usr/local/bin/lifeline-agent --version 2>/dev/null)"
say binary "$(have /usr/local/bin/lifeline-agent)"
say binary_sum "$(sum /usr/local/bin/lifeline-agent)"
say unit "$(have /etc/systemd/system/lifeline-agent.service)"
say unit_sum "$(sum /etc/systemd/system/lifeline-agent.service)"
say catalog "$(have /usr/local/lib/systemd/catalog/lifeline.catalog)"
say catalog_sum "$(sum /usr/local/lib/systemd/catalog/lifeline.catalog)"
say active "$(systemctl is-active lifeline-agent.service 2>/dev/null)"
say config "$(have /etc/lifeline/agent.toml)"
say key "$(have /etc/lifeline/agent.key)"
say state "$(have /var/lib/lifeline)"
say kept "$(( $(count /var/lib/lifeline/quarantine) + $(count /run/.lifeline-quarantine /var/lib/.lifeline-quarantine) ))"
