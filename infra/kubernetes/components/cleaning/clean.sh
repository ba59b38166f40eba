#!/bin/sh
# Removes what nobody has changed or read for a while below /cache:
#   work/<run>              of runs that never came to an end   WORK_DAYS
#   regrow/<kind>/<key>     artifacts, models, downloads        CACHE_DAYS
#   huggingface/hub/<repo>  downloads from a hub                CACHE_DAYS
# An entry goes as a whole: its name first, in one step, so that no pod finds half of it. Everything but `work` can be
# fetched again.
set -eu
cd "${CACHE:-/cache}"
rm -rf ./.removed
mkdir .removed

idle() { # folder, days: true if nothing in it was changed or read in that time; false if that can not be seen
    used=$(find "$1" \( -newermt "-$2 days" -o -newerat "-$2 days" \) ! -type d -print -quit) || return 1
    made=$(find "$1" -maxdepth 0 -newermt "-$2 days") || return 1
    [ -z "$used$made" ]
}

clean() { # parent, depth, days
    [ -d "$1" ] || return 0
    find "$1" -mindepth "$2" -maxdepth "$2" | while IFS= read -r entry; do
        if idle "$entry" "$3"; then
            echo "remove $entry ($(du -sh "$entry" | cut -f1))"
            mv "$entry" ".removed/$(echo "$entry" | tr / _)"
        fi
    done
}

clean work 1 "$WORK_DAYS"
clean regrow 2 "$CACHE_DAYS"
clean huggingface/hub 1 "$CACHE_DAYS"
rm -rf ./.removed
df -h .
