//! Creating Kafka's access rules through librdkafka.
//!
//! The rdkafka crate wraps every admin call but this one, and Kafka's own tool is a Java program that
//! takes seconds per call. So the one call is made here on the crate's C bindings; all of this
//! workspace's unsafe code for Kafka is in this file.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::bindings as c;
use rdkafka::client::DefaultClientContext;

const ANSWER_LIMIT_MS: i32 = 120_000;

#[derive(Clone, Debug)]
pub enum Resource {
    Topic(String),
    /// Every consumer group whose name begins so.
    GroupsFrom(String),
}

#[derive(Clone, Copy, Debug)]
pub enum Operation {
    Read,
    Write,
}

/// Lets a principal do one thing, from any address.
#[derive(Clone, Debug)]
pub struct Allow {
    pub principal: String,
    pub resource: Resource,
    pub operation: Operation,
}

/// Creates these rules; one that exists already is as good.
pub fn create(admin: &ClientConfig, rules: &[Allow]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = admin.create().context("admin client")?;
    let client = admin.inner().native_ptr();
    let bindings = rules.iter().map(Binding::new).collect::<Result<Vec<_>>>()?;
    let mut pointers: Vec<_> = bindings.iter().map(|binding| binding.0).collect();

    // SAFETY: `client` lives as long as `admin`, which is dropped after the queue and the event (locals
    // drop in reverse). librdkafka copies the bindings before it returns, and null options mean defaults.
    let queue = unsafe {
        let queue = Queue(c::rd_kafka_queue_new(client));
        c::rd_kafka_CreateAcls(client, pointers.as_mut_ptr(), pointers.len(), ptr::null(), queue.0);
        queue
    };
    // SAFETY: the queue is alive; null means that nothing came within the limit.
    let event = Event(unsafe { c::rd_kafka_queue_poll(queue.0, ANSWER_LIMIT_MS) });
    if event.0.is_null() {
        bail!("Kafka did not answer within {ANSWER_LIMIT_MS} ms");
    }
    event.check(rules)
}

struct Binding(*mut c::rd_kafka_AclBinding_t);

impl Binding {
    fn new(rule: &Allow) -> Result<Self> {
        let (kind, name, pattern) = match &rule.resource {
            Resource::Topic(name) => (
                c::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                name,
                c::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
            ),
            Resource::GroupsFrom(prefix) => (
                c::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP,
                prefix,
                c::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_PREFIXED,
            ),
        };
        let operation = match rule.operation {
            Operation::Read => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ,
            Operation::Write => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE,
        };
        let name = CString::new(name.as_str())?;
        let principal = CString::new(format!("User:{}", rule.principal))?;
        let mut error = [0 as c_char; 256];
        // SAFETY: every string ends with a zero and outlives the call, which copies them; the buffer for
        // the error has the length that is told.
        let binding = unsafe {
            c::rd_kafka_AclBinding_new(
                kind,
                name.as_ptr(),
                pattern,
                principal.as_ptr(),
                c"*".as_ptr(),
                operation,
                c::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                error.as_mut_ptr(),
                error.len(),
            )
        };
        if binding.is_null() {
            // SAFETY: librdkafka writes a string that ends with a zero, and the buffer began as zeros.
            bail!("rule {rule:?}: {}", unsafe { text(error.as_ptr()) });
        }
        Ok(Self(binding))
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_AclBinding_new`, not null, owned by this value alone.
        unsafe { c::rd_kafka_AclBinding_destroy(self.0) }
    }
}

struct Queue(*mut c::rd_kafka_queue_t);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_queue_new`, owned by this value alone.
        unsafe { c::rd_kafka_queue_destroy(self.0) }
    }
}

struct Event(*mut c::rd_kafka_event_t);

impl Event {
    /// The answer as a whole, then the answer to each rule.
    fn check(&self, rules: &[Allow]) -> Result<()> {
        // SAFETY: the event is not null; what is read from it is copied before it is dropped.
        unsafe {
            if c::rd_kafka_event_error(self.0) != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                bail!("Kafka refused the rules: {}", text(c::rd_kafka_event_error_string(self.0)));
            }
            let result = c::rd_kafka_event_CreateAcls_result(self.0);
            if result.is_null() {
                bail!("Kafka answered something else than was asked");
            }
            let mut count = 0;
            let answers = c::rd_kafka_CreateAcls_result_acls(result, &raw mut count);
            for (index, rule) in rules.iter().enumerate().take(count) {
                let error = c::rd_kafka_acl_result_error(*answers.add(index));
                if !error.is_null() {
                    bail!("Kafka refused {rule:?}: {}", text(c::rd_kafka_error_string(error)));
                }
            }
        }
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: given by `rd_kafka_queue_poll`, owned by this value alone.
            unsafe { c::rd_kafka_event_destroy(self.0) }
        }
    }
}

/// # Safety
/// `pointer` is null or points at a string that ends with a zero.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: by the contract above.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
