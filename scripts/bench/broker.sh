# A real Kafka of one node for the parts that ship events. Sourced by scripts/bench-ratios.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

brokers='' broker_pid=''
kafka_version=4.4.0

# A port that nobody listens on, below those the kernel gives away by itself.
free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# start_broker: sets `brokers`. $KAFKA_BROKERS names others to use; then their CPU is not told. Needs Java, and Maven to
# fetch the jars once. False when there is none.
start_broker() {
    local jars=$target/kafka-lib-$kafka_version folder=$work/broker port controller deadline
    brokers=${KAFKA_BROKERS:-}
    [[ -z $brokers ]] || return 0
    if [[ ! -d $jars ]]; then
        mvn -q -B -f tests/it/support/kafka-broker/pom.xml dependency:copy-dependencies \
            "-DoutputDirectory=$jars.part" >&2 || return 1
        mv "$jars.part" "$jars"
    fi
    port=$(free_port) controller=$(free_port)
    mkdir "$folder"
    cat >"$folder/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:$controller
log.dirs=$folder/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.bytes=268435456
log.segment.bytes=67108864
PROPERTIES
    java -cp "$jars/*" kafka.tools.StorageTool format --standalone -t echopaybenchechopaybenA \
        -c "$folder/server.properties" >"$folder/format.log" 2>&1 || {
        tail -5 "$folder/format.log" >&2
        return 1
    }
    java -Xms256m -Xmx256m -XX:+UseSerialGC -cp "$jars/*" kafka.Kafka "$folder/server.properties" \
        >"$folder/broker.log" 2>&1 &
    broker_pid=$!
    # So that stop_all ends it too.
    pids[broker]=$broker_pid
    deadline=$((SECONDS + 120))
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        if ((SECONDS > deadline)) || ! kill -0 "$broker_pid" 2>/dev/null; then
            echo "no broker: $(tail -3 "$folder/broker.log")" >&2
            return 1
        fi
        sleep 0.2
    done
    brokers=127.0.0.1:$port
}
broker_ticks() { if [[ -n $broker_pid ]]; then process_ticks "$broker_pid"; else echo 0; fi; }
