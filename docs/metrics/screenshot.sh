#!/usr/bin/env bash
# Makes dashboard.png: the dashboard's queries, asked of a real Prometheus that has a
# made-up week of two servers, drawn by screenshot.html in a headless Chromium. (Grafana
# is not among Debian's packages.)
#
# Needs Debian's chromium and python3, and TEST_PROMETHEUS (tests/servers/prometheus.sh).
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
prometheus=
trap '[[ -z $prometheus ]] || kill "$prometheus"; rm -rf "$work"' EXIT
port=${1:-19790}

python3 screenshot.py >"$work/week.om"
"$TEST_PROMETHEUS/promtool" tsdb create-blocks-from openmetrics "$work/week.om" "$work/data" >/dev/null
echo '{}' >"$work/prometheus.yml"
"$TEST_PROMETHEUS/prometheus" --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" \
  --query.lookback-delta=30m --web.listen-address="127.0.0.1:$port" 2>"$work/log" &
prometheus=$!
until python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/-/ready')" 2>/dev/null; do
  kill -0 "$prometheus"
done
{
  printf '<script>const API = "http://127.0.0.1:%s", DASHBOARD = ' "$port"
  cat grafana-dashboard.json
  printf '</script>\n'
  cat screenshot.html
} >"$work/page.html"
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1400,1330 \
  --user-data-dir="$work/profile" --virtual-time-budget=20000 \
  --screenshot="$work/dashboard.png" "file://$work/page.html" 2>/dev/null
cp "$work/dashboard.png" dashboard.png
