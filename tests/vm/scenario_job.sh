# What test_scenario.sh runs where guests run: scenario_job.sh IMAGE CYCLES
sh tests/vm/mainjob.sh "$1"
main=$?
sh tests/vm/cycles.sh "$1" "$2"
cycles=$?
[ $main -eq 0 ] && [ $cycles -eq 0 ]
