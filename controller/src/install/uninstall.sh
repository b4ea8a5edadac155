# Takes everything of Lifeline's away, in an order in which what is left can still be taken away by running it again.
set -e
at=/usr/local/bin/lifeline-agent
systemctl disable --now lifeline-agent.service 2>/dev/null || true
systemctl stop lifeline-undo.timer lifeline-undo.service lifeline-once.service lifeline-upgrade.service 2>/dev/null || true
if [ -x "$at" ] && [ -e /etc/lifeline/agent.toml ]; then
  timeout 60 "$at" cleanup >/dev/null
fi
for f in /etc/systemd/system/lifeline-agent.service /usr/local/lib/systemd/catalog/lifeline.catalog "$at"; do
  # What an upgrade that was cut off has left, too.
  rm -f "$f.old" "$f.new" "$f.none"
done
rm -f /etc/systemd/system/lifeline-agent.service /usr/local/lib/systemd/catalog/lifeline.catalog
rmdir /usr/local/lib/systemd/catalog /usr/local/lib/systemd 2>/dev/null || true
systemctl daemon-reload
# One by one: a name that is not there would end the others' turn.
for u in lifeline-agent lifeline-undo lifeline-upgrade; do systemctl reset-failed "$u.service" 2>/dev/null || true; done
journalctl --update-catalog 2>/dev/null || true
rm -rf /etc/lifeline /var/lib/lifeline /run/lifeline /run/lifeline-once /run/lifeline-once.toml /run/.lifeline-quarantine /var/lib/.lifeline-quarantine
rm -f "$at" "$at.once"
# What is left, looked at and not believed.
for f in "$at" "$at.old" "$at.new" "$at.once" /etc/lifeline /var/lib/lifeline /run/lifeline /run/.lifeline-quarantine \
  /etc/systemd/system/lifeline-agent.service /etc/systemd/system/multi-user.target.wants/lifeline-agent.service; do
  if [ -e "$f" ] || [ -L "$f" ]; then echo "$f"; fi
done
# A unit that is "not-found" is a name in somebody else's ordering.
systemctl list-units --all --plain --no-legend 'lifeline-*' | awk '$2 != "not-found" { print "unit " $1 }'
{ ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; } 2>/dev/null | grep 'proto 213' || true
