//! [`Broker`]: a real Apache Kafka (one node) on free ports with a data folder of its own, and a consumer that
//! reads back what a topic holds.
//!
//! Needs Java and Maven; the jars are fetched once into the target folder. Without them the tests that ask for a broker
//! say SKIPPED, and with `ECHOPAY_REQUIRE_KAFKA=1` they fail. `KAFKA_BROKERS` names brokers to use instead; tests that
//! have to kill theirs are skipped then.

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

const KAFKA_VERSION: &str = "4.4.0";
/// Who may come by the listener that asks for a password.
pub(crate) const SASL_USER: &str = "echopay";
/// That one's password.
pub(crate) const SASL_PASSWORD: &str = "open-sesame";
/// Between two looks at a condition; a deadline is a number of looks.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS_MAX: u32 = 20 * 120;
const STARTS_MAX: u32 = 3;
const PORT_TRIES_MAX: u32 = 1_000;
/// For `--kafka-event-types`: what a topic then holds is the journal, number by number.
pub(crate) const ALL_TYPES: &str = "transaction.created,transaction.completed,transaction.failed,transaction.reversed,\
                         fraud.score.updated,balance.updated,wallet.opened";

/// Brokers that a test may use.
#[derive(Debug)]
pub(crate) struct Broker {
    addresses: String,
    own: Option<Own>,
}

/// One that this process started.
#[derive(Debug)]
struct Own {
    jars: PathBuf,
    dir: TempDir,
    ports: Ports,
    running: Option<Java>,
}

/// Where it listens.
#[derive(Clone, Copy, Debug)]
struct Ports {
    /// For everyone, without a password.
    plain: u16,
    /// For clients that come with a name and a password.
    sasl: u16,
    /// For a proxy.
    proxied: u16,
    /// For the broker's own controller.
    controller: u16,
    /// What the clients of that one are told to connect to: the proxy's port.
    advertised: u16,
}

/// A JVM under a shell that kills it as soon as the shell's stdin closes: when this value goes, and also when the test
/// process ends in whatever way. (Statics are never dropped.)
#[derive(Debug)]
struct Java {
    shell: Child,
    pid: Pid,
}

impl Broker {
    /// The broker that all tests of this process share: for those with a topic of their own that leave it running.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Result<Broker, String>> = OnceLock::new();
        let broker = SHARED.get_or_init(|| match environment("KAFKA_BROKERS") {
            Some(addresses) => Ok(Self {
                addresses,
                own: None,
            }),
            None => Self::start_one(None, &[]),
        });
        broker.as_ref().map_or_else(|reason| skip(reason), Some)
    }

    /// A broker of the test's own, which it may kill. It ends with the value.
    pub(crate) fn own() -> Option<Self> {
        if environment("KAFKA_BROKERS").is_some() {
            return skip("KAFKA_BROKERS is set, and its brokers are not this test's to kill");
        }
        Self::start_one(None, &[]).map_or_else(|reason| skip(&reason), Some)
    }

    /// Like [`Broker::own`], with properties of its own.
    pub(crate) fn own_with(properties: &[&str]) -> Option<Self> {
        if environment("KAFKA_BROKERS").is_some() {
            return skip("KAFKA_BROKERS is set, and its brokers are set up by somebody else");
        }
        Self::start_one(None, properties).map_or_else(|reason| skip(&reason), Some)
    }

    /// Like [`Broker::own`], with a listener at [`Broker::proxied_port`] whose clients are told to connect to
    /// `advertised`, where a proxy stands.
    pub(crate) fn own_behind(advertised: u16) -> Option<Self> {
        if environment("KAFKA_BROKERS").is_some() {
            return skip("KAFKA_BROKERS is set, and no proxy stands before its brokers");
        }
        Self::start_one(Some(advertised), &[]).map_or_else(|reason| skip(&reason), Some)
    }

    /// For `--kafka-brokers`.
    pub(crate) fn addresses(&self) -> &str {
        &self.addresses
    }

    /// Where a proxy reaches it.
    pub(crate) fn proxied_port(&self) -> u16 {
        self.ours().ports.proxied
    }

    /// The listener (`SASL_PLAINTEXT`, mechanism `PLAIN`) that lets in [`SASL_USER`] with [`SASL_PASSWORD`] alone;
    /// `None` for brokers that this process did not start.
    pub(crate) fn sasl_addresses(&self) -> Option<String> {
        let Some(own) = &self.own else {
            return skip("KAFKA_BROKERS is set, and how its brokers know who asks is not known");
        };
        Some(format!("127.0.0.1:{}", own.ports.sasl))
    }

    #[track_caller]
    fn ours(&self) -> &Own {
        self.own.as_ref().expect("a broker of this test's own")
    }

    /// A topic's name that nobody else uses.
    pub(crate) fn fresh_topic(hint: &str) -> String {
        let random = TempDir::new().unwrap();
        let random = random
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        format!("{hint}{random}")
    }

    /// `SIGKILL`, and waits until nobody listens any more.
    pub(crate) fn kill9(&mut self) {
        let own = self.own.as_mut().expect("a broker of this test's own");
        own.running = None;
        let port = own.ports.plain;
        wait_until("the broker is gone", || !accepts(port));
    }

    /// Starts it again on the same port and data, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        let own = self.own.as_mut().expect("a broker of this test's own");
        own.running = None;
        own.running = Some(Java::start(&own.jars, own.dir.path()));
        assert!(own.is_up(), "the broker did not come back");
    }

    /// Puts another, empty cluster on the same port.
    pub(crate) fn replace(&mut self) {
        let own = self.own.as_mut().expect("a broker of this test's own");
        own.running = None;
        *own = Own::start(&own.jars, own.ports, &[]).unwrap();
        assert!(own.is_up(), "the other broker does not start");
    }

    /// From now on none of its files may grow beyond `bytes`: what it writes fails as on a full disk, but with EFBIG in
    /// the place of ENOSPC. `None` makes room again.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        let java = self.ours().running.as_ref().expect("a running broker");
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(Some(java.pid), Resource::Fsize, limit).unwrap();
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait_for_its_end(&self) {
        let java = self
            .ours()
            .running
            .as_ref()
            .expect("a broker that was started");
        wait_until("the broker ends by itself", || !java.is_alive());
    }

    /// Freezes it, connections and all.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends [`Broker::pause`].
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let java = self.own.as_ref().and_then(|own| own.running.as_ref());
        kill_process(
            java.expect("a running broker of this test's own").pid,
            signal,
        )
        .unwrap();
    }

    /// Makes a topic by hand, with settings of its own.
    pub(crate) fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let results = block_on(self.admin().create_topics([&topic], &options)).unwrap();
        results.into_iter().next().unwrap().unwrap();
        let consumer = consumer(&self.addresses);
        wait_until("the topic shows", || {
            partitions_of(&consumer, name).is_some()
        });
    }

    /// Changes one setting of a topic.
    pub(crate) fn set_topic(&self, name: &str, key: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let results = block_on(self.admin().alter_configs(&[change], &options)).unwrap();
        results.into_iter().next().unwrap().unwrap();
    }

    /// Gives a topic more partitions, `count` in all.
    pub(crate) fn add_partitions(&self, name: &str, count: i32) {
        let more = NewPartitions::new(name, usize::try_from(count).unwrap());
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let results = block_on(self.admin().create_partitions(&[more], &options)).unwrap();
        results.into_iter().next().unwrap().unwrap();
        let consumer = consumer(&self.addresses);
        wait_until("the partitions show", || {
            partitions_of(&consumer, name) == Some(count)
        });
    }

    /// Whether there is such a topic.
    pub(crate) fn has_topic(&self, name: &str) -> bool {
        partitions_of(&consumer(&self.addresses), name).is_some()
    }

    /// Removes a topic that somebody else may have made again before anyone can see that it was gone.
    pub(crate) fn delete_topic_while_in_use(&self, name: &str) {
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let results = block_on(self.admin().delete_topics(&[name], &options)).unwrap();
        results.into_iter().next().unwrap().unwrap();
    }

    /// Removes a topic with all that it holds.
    pub(crate) fn delete_topic(&self, name: &str) {
        self.delete_topic_while_in_use(name);
        let consumer = consumer(&self.addresses);
        wait_until("the topic is gone", || {
            partitions_of(&consumer, name).is_none()
        });
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.addresses)
            .create()
            .unwrap()
    }

    /// An error says what is missing on this machine.
    fn start_one(advertised: Option<u16>, properties: &[&str]) -> Result<Self, String> {
        let jars = jars()?;
        let mut why = String::new();
        for _ in 0..STARTS_MAX {
            // Somebody may take a port between our look and the broker's start: then once more with others.
            match Own::start(&jars, Ports::free(advertised), properties) {
                Ok(own) if own.is_up() => {
                    return Ok(Self {
                        addresses: format!("127.0.0.1:{}", own.ports.plain),
                        own: Some(own),
                    });
                }
                Ok(own) => why = own.last_words(),
                Err(refused) => why = refused,
            }
            eprintln!("a broker did not start: {why}");
        }
        panic!("the broker does not start: {why}");
    }
}

impl Ports {
    fn free(advertised: Option<u16>) -> Self {
        // All at once: ports that are looked for one after the other may be the same.
        let [plain, sasl, proxied, controller] = free_ports();
        Self {
            plain,
            sasl,
            proxied,
            controller,
            advertised: advertised.unwrap_or(proxied),
        }
    }
}

impl Own {
    /// An error has what the tools of Kafka said of it.
    fn start(jars: &Path, ports: Ports, more: &[&str]) -> Result<Self, String> {
        let dir = TempDir::new().unwrap();
        let Ports {
            plain,
            sasl,
            proxied,
            controller,
            advertised,
        } = ports;
        let data = dir.path().join("data");
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},\
             PROXIED://127.0.0.1:{proxied},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},\
             PROXIED://127.0.0.1:{advertised}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,\
             PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             sasl.enabled.mechanisms=PLAIN\n\
             listener.name.sasl.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required \
             user_{SASL_USER}=\"{SASL_PASSWORD}\";\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             log.dirs={}\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             broker.session.timeout.ms=2000\n\
             broker.heartbeat.interval.ms=500\n\
             {}\n",
            data.display(),
            more.join("\n")
        );
        fs::write(dir.path().join("server.properties"), properties).unwrap();
        // 22 characters of base64 for 16 bytes; the last one carries two bits. The folder's random name tells clusters
        // apart that follow each other on the same ports.
        let folder = dir.path().file_name().unwrap().to_string_lossy();
        let cluster_id = format!(
            "{:x<21.21}A",
            format!("p{plain}{}", folder.replace('.', ""))
        );
        let formatted = java(jars)
            .args([
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "-t",
                &cluster_id,
                "-c",
            ])
            .arg(dir.path().join("server.properties"))
            .output()
            .unwrap();
        if !formatted.status.success() {
            let said = [formatted.stdout, formatted.stderr].concat();
            return Err(format!(
                "its folder was not made ({}): {}",
                formatted.status,
                last_lines(&String::from_utf8_lossy(&said))
            ));
        }
        let running = Some(Java::start(jars, dir.path()));
        Ok(Self {
            jars: jars.to_path_buf(),
            dir,
            ports,
            running,
        })
    }

    fn last_words(&self) -> String {
        let log = fs::read(self.dir.path().join("broker.log")).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&log))
    }

    /// Waits until it answers; `false` when it never will.
    fn is_up(&self) -> bool {
        let addresses = format!("127.0.0.1:{}", self.ports.plain);
        let mut probe = None;
        for _ in 0..LOOKS_MAX {
            if self.running.as_ref().is_none_or(|java| !java.is_alive()) {
                return false;
            }
            if accepts(self.ports.plain) {
                let probe = probe.get_or_insert_with(|| consumer(&addresses));
                let answer = probe.fetch_metadata(None, Duration::from_secs(1));
                if answer.is_ok_and(|metadata| !metadata.brokers().is_empty()) {
                    return true;
                }
            }
            std::thread::sleep(LOOK);
        }
        false
    }
}

impl Java {
    fn start(jars: &Path, dir: &Path) -> Self {
        let log = File::create(dir.join("broker.log")).unwrap();
        let mut shell = Command::new("sh")
            .args([
                "-c",
                r#""$@" </dev/null >&2 & echo $!; cat >/dev/null; kill -9 $!"#,
                "sh",
            ])
            .args([
                "java",
                "-Xms128m",
                "-Xmx256m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
            ])
            .args(["-cp", &format!("{}/*", jars.display()), "kafka.Kafka"])
            .arg(dir.join("server.properties"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        Self { shell, pid }
    }

    /// A JVM that ended stays a zombie of its shell, which `/proc` tells.
    fn is_alive(&self) -> bool {
        let path = format!("/proc/{}/stat", self.pid.as_raw_nonzero());
        let Ok(stat) = fs::read_to_string(path) else {
            return false;
        };
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }
}

impl Drop for Java {
    fn drop(&mut self) {
        // The shell's stdin closes, so it kills the JVM and ends.
        drop(self.shell.stdin.take());
        let _already_gone = self.shell.wait();
    }
}

/// A topic of the test's own, which nobody else uses. The service makes it when it ships to it.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    addresses: String,
    name: String,
}

impl Topic {
    /// One on the brokers that all tests share ([`Broker::shared`]); `hint` begins its name.
    pub(crate) fn shared(hint: &str) -> Option<Self> {
        Broker::shared().map(|broker| Self::on(broker, hint))
    }

    /// One on these brokers.
    pub(crate) fn on(broker: &Broker, hint: &str) -> Self {
        Self {
            addresses: broker.addresses.clone(),
            name: Broker::fresh_topic(hint),
        }
    }

    /// Where its brokers are.
    pub(crate) fn addresses(&self) -> &str {
        &self.addresses
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The flags that make a server ship to it.
    pub(crate) fn flags(&self) -> [&str; 4] {
        let (brokers, topic) = (&self.addresses, &self.name);
        ["--kafka-brokers", brokers, "--kafka-topic", topic]
    }

    /// Likewise, every type of event.
    pub(crate) fn flags_for_all_types(&self) -> [&str; 6] {
        let [brokers, addresses, topic, name] = self.flags();
        let types = "--kafka-event-types";
        [brokers, addresses, topic, name, types, ALL_TYPES]
    }

    /// Everything it holds now, see [`read_all`].
    pub(crate) fn read(&self) -> Vec<Record> {
        read_all(&self.addresses, &self.name)
    }
}

/// A record as a consumer gets it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) json: serde_json::Value,
    /// As it stands in the topic, byte for byte.
    pub(crate) payload: String,
}

impl From<&BorrowedMessage<'_>> for Record {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let payload = text(message.payload());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: text(message.key()),
            headers: message.headers().map_or_else(Vec::new, |headers| {
                headers
                    .iter()
                    .map(|h| (h.key.to_owned(), text(h.value)))
                    .collect()
            }),
            json: serde_json::from_str(&payload).unwrap(),
            payload,
        }
    }
}

impl Record {
    /// The event's number.
    pub(crate) fn sequence(&self) -> u64 {
        self.json["sequence"]
            .as_u64()
            .expect("an event has a sequence")
    }

    /// A text field of the event.
    #[track_caller]
    pub(crate) fn text(&self, field: &str) -> &str {
        let value = self.json[field].as_str();
        value.unwrap_or_else(|| panic!("no text field {field} in {}", self.json))
    }
}

/// Everything a topic holds now: each partition in its order, one partition after another. A missing topic holds
/// nothing.
pub(crate) fn read_all(addresses: &str, topic: &str) -> Vec<Record> {
    TopicReader::new(addresses, topic).read_on()
}

/// Reads a topic bit by bit: each look costs what is new.
pub(crate) struct TopicReader {
    consumer: BaseConsumer,
    topic: String,
    /// The next offset of each partition.
    next: Vec<i64>,
}

/// First and next offset of a partition. One that was only just made has no leader for a moment.
fn ends_of(consumer: &BaseConsumer, topic: &str, partition: i32) -> (i64, i64) {
    let mut looks = 0;
    loop {
        match consumer.fetch_watermarks(topic, partition, Duration::from_secs(20)) {
            Ok(ends) => return ends,
            Err(error) if looks < 100 => {
                looks += 1;
                drop(error);
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => panic!("partition {partition} of {topic}: {error}"),
        }
    }
}

impl TopicReader {
    /// From the beginning of `topic`, which need not be there yet.
    pub(crate) fn new(addresses: &str, topic: &str) -> Self {
        Self {
            consumer: consumer(addresses),
            topic: topic.to_owned(),
            next: Vec::new(),
        }
    }

    /// What came in since the last look: each partition in its order, one partition after another.
    pub(crate) fn read_on(&mut self) -> Vec<Record> {
        if self.next.is_empty() {
            let partitions = partitions_of(&self.consumer, &self.topic).unwrap_or_default();
            self.next = vec![0; usize::try_from(partitions).unwrap()];
        }
        let mut list = TopicPartitionList::new();
        let mut ends = Vec::new();
        for (partition, next) in (0..).zip(&mut self.next) {
            let (low, high) = ends_of(&self.consumer, &self.topic, partition);
            let from = low.max(*next);
            if from < high {
                list.add_partition_offset(&self.topic, partition, Offset::Offset(from))
                    .unwrap();
                ends.push((partition, high));
                *next = high;
            }
        }
        if ends.is_empty() {
            return Vec::new();
        }
        self.consumer.assign(&list).unwrap();
        let mut records = Vec::new();
        let mut looks = 0;
        while !ends.is_empty() {
            match self.consumer.poll(LOOK) {
                Some(Ok(message)) => {
                    looks = 0;
                    let end = ends.iter().position(|end| end.0 == message.partition());
                    // What came in behind the end is left to the next look.
                    let Some(end) = end else { continue };
                    if message.offset() + 1 >= ends[end].1 {
                        ends.swap_remove(end);
                    }
                    records.push(Record::from(&message));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ends.retain(|(p, _)| *p != partition);
                }
                Some(Err(_)) | None => {
                    looks += 1;
                    assert!(looks < LOOKS_MAX, "the topic cannot be read to its end");
                }
            }
        }
        self.consumer.unassign().unwrap();
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }
}

/// Reads a topic again and again until `enough` says so, and gives what it then holds.
///
/// # Panics
/// When that does not happen; `what` says what was waited for.
#[track_caller]
pub(crate) fn read_until(
    addresses: &str,
    topic: &str,
    what: &str,
    mut enough: impl FnMut(&[Record]) -> bool,
) -> Vec<Record> {
    let mut records = Vec::new();
    wait_until(what, || {
        records = read_all(addresses, topic);
        enough(&records)
    });
    records
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..LOOKS_MAX {
        if condition() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("waited in vain: {what}");
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
}

pub(crate) fn consumer(addresses: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", addresses)
        .set("group.id", "echopay-tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "20")
        .create()
        .unwrap()
}

fn partitions_of(consumer: &BaseConsumer, topic: &str) -> Option<i32> {
    let metadata = consumer
        .fetch_metadata(Some(topic), Duration::from_secs(20))
        .unwrap();
    let found = metadata
        .topics()
        .iter()
        .find(|found| found.name() == topic)?;
    let count = i32::try_from(found.partitions().len()).unwrap();
    (found.error().is_none() && count > 0).then_some(count)
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn accepts(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// Bound all at once, so that they differ; and below those that the kernel gives to whoever asks for any one (32768 and up,
/// `ip_local_port_range`): a broker that was killed needs its ports again, and nobody may have got them meanwhile.
fn free_ports<const N: usize>() -> [u16; N] {
    let bound = [(); N].map(|()| {
        (0..PORT_TRIES_MAX)
            .find_map(|_| {
                let port = 10_000 + RandomState::new().hash_one(()) % 20_000;
                TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).ok()
            })
            .expect("a free port")
    });
    bound.map(|listener| listener.local_addr().unwrap().port())
}

/// What a person wants to see of a program that ended: the last lines, which name the fault, none of them a page long.
fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    let cut = |line: &&str| line.chars().take(300).collect::<String>();
    let last = &lines[lines.len().saturating_sub(8)..];
    last.iter().map(cut).collect::<Vec<_>>().join(" | ")
}

fn java(jars: &Path) -> Command {
    let mut java = Command::new("java");
    java.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    java.arg(format!("{}/*", jars.display()));
    java
}

/// The folder with the broker's jars, fetched by Maven where they are not there yet.
fn jars() -> Result<PathBuf, String> {
    let runs = |program: &str, argument: &str| {
        let tried = Command::new(program)
            .arg(argument)
            .stdin(Stdio::null())
            .output();
        tried.is_ok_and(|output| output.status.success())
    };
    if !runs("java", "-version") {
        return Err("no java on the path".into());
    }
    // <target>/<profile>/deps/<this test>
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap();
    let jars = target.join(format!("kafka-lib-{KAFKA_VERSION}"));
    let lock = File::create(target.join("kafka-lib.lock")).unwrap();
    // Until the end of the function: test processes side by side fetch once.
    lock.lock().unwrap();
    if jars.is_dir() {
        return Ok(jars);
    }
    if !runs("mvn", "-v") {
        return Err("no mvn on the path to fetch a broker with".into());
    }
    let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/kafka-broker/pom.xml");
    let part = target.join("kafka-lib.part");
    let fetched = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(pom)
        .args([
            "dependency:copy-dependencies",
            &format!("-DoutputDirectory={}", part.display()),
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if !fetched.status.success() {
        return Err(format!(
            "mvn failed: {}",
            String::from_utf8_lossy(&fetched.stdout)
        ));
    }
    fs::rename(&part, &jars).unwrap();
    Ok(jars)
}

fn skip<T>(reason: &str) -> Option<T> {
    let required = environment("ECHOPAY_REQUIRE_KAFKA").is_some_and(|value| value == "1");
    assert!(!required, "a Kafka broker is required: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past the capture of the test harness: a skipped test must not look like one that passed.
    let _closed = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    None
}

#[expect(
    clippy::disallowed_methods,
    reason = "how tests are told which brokers to use"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
