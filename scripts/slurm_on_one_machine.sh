#!/bin/bash
# Runs a study on a real Slurm of one machine, in which a job is cut off at its time limit and goes on. By hand, as root:
#     apt-get install slurm-wlm munge && pip install ".[slurm]" && bash scripts/slurm_on_one_machine.sh
# docs/studies.md keeps what it printed. Everything is written below a folder in /tmp, and the daemons are stopped at the end.
set -euo pipefail
work=$(mktemp -d /tmp/gta-slurm-XXXX)
host=$(hostname -s)
chmod 755 "$work"
mkdir -p "$work"/{spool,state,munge}
head -c 1024 /dev/urandom > "$work/munge/key"
chmod 700 "$work/munge" && chmod 600 "$work/munge/key"
cat > "$work/slurm.conf" <<CONF
ClusterName=gta
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=30
MinJobAge=3600
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
NodeName=$host CPUs=$(nproc) RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm.conf
stop() {
    scancel --user root 2> /dev/null || true
    for name in slurmd slurmctld munged; do
        [ ! -f "$work/$name.pid" ] || kill "$(cat "$work/$name.pid")" 2> /dev/null || true
    done
}
trap stop EXIT
munged --force --key-file "$work/munge/key" --socket "$work/munge/socket" --pid-file "$work/munged.pid" \
    --log-file "$work/munge/log" --seed-file "$work/munge/seed"
slurmctld && slurmd
for _ in $(seq 30); do
    [ "$(sinfo --noheader --format %t)" = idle ] && break
    sleep 1
done
sinfo

cat > "$work/plan.yaml" <<PLAN
# One run that takes longer than a job may.
data:
  world: {world: {val: 2, test: 4}, source: gta:butterflies, image_size: 96, precision: "32"}
options: {epochs: ${EPOCHS:-20}, workers: 0}
methods: {gta: {}}
grid: {lr: [1.0e-4]}
choose: []
seeds: [0]
PLAN
gta study run "$work/plan.yaml" --out "$work/study" --launcher slurm --slurm.minutes 3 --slurm.cpus 1 \
    2> >(grep -v -e sacct -e accounting) &
study=$!
while kill -0 $study 2> /dev/null; do
    squeue --noheader --format "%.12i %.9T %.6M of %l" | sed "s/^/$(date +%T) /"
    sleep 15
done
wait $study
echo "--- the job's log"
cat "$work"/study/slurm/*_log.out | grep -oE "\) - (Starting|Job has timed|Requeued|Exiting|Job completed).*" | sed "s/^) - //"
echo "--- the run's epochs, of all sessions"
grep -hE "^epoch" "$work"/study/slurm/*_log.err | awk '{printf "%s ", $2} END {print ""}'
cat "$work/study/table.md"
