# What an upgrade replaces: the program, its unit and its message texts; the old ones come back together. Begins upgrade.sh, too.
at=/usr/local/bin/lifeline-agent
unit=lifeline-agent.service
pieces="/etc/systemd/system/lifeline-agent.service /usr/local/lib/systemd/catalog/lifeline.catalog $at"
# systemd and journalctl go by what lies there now.
read_again() {
  timeout 15 systemctl daemon-reload
  timeout 15 journalctl --update-catalog 2>/dev/null
}
# As it was; what was not there before goes again. Cut off, it is ended by running it again.
put_back() {
  for f in $pieces; do
    if [ -e "$f.none" ]; then
      rm -f "$f" "$f.none"
    elif [ -e "$f.old" ]; then
      mv -f "$f.old" "$f"
    fi
  done
  read_again
}
