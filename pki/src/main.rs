//! `picket`: the operator's command. See the library's page for what its files are.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use picket_pki::{Authority, Description, Identity, IssueOptions, MAX_DAYS, Role};

/// Picket's operator tool.
#[derive(Parser)]
#[command(name = "picket", version)]
enum Picket {
    /// Certificates: a private authority, and an identity for each part of a fleet.
    #[command(subcommand)]
    Pki(Pki),
}

#[derive(Subcommand)]
enum Pki {
    /// Make a new certificate authority.
    Init {
        /// Folder to make it in.
        #[arg(long)]
        dir: PathBuf,
        /// Days until it ends.
        #[arg(long, default_value_t = MAX_DAYS)]
        days: u32,
    },
    /// Issue to a server that is not a Kafka broker (MongoDB, the aggregator's web page).
    Server(Issue),
    /// Issue to a Kafka broker.
    Broker(Issue),
    /// Issue to a person who makes topics and ACLs.
    Admin(Issue),
    /// Issue to an aggregator.
    Aggregator(Issue),
    /// Issue to an edge agent.
    Device {
        #[command(flatten)]
        issue: Issue,
        /// Sign this request of the device, which keeps its key, instead of making a key here.
        #[arg(long)]
        csr: Option<PathBuf>,
    },
    /// Say what a certificate is for, and how many days it has left.
    Show { file: PathBuf },
}

#[derive(Args)]
struct Issue {
    /// [a-z0-9][a-z0-9._-]{0,62}
    name: String,
    /// Folder of the authority.
    #[arg(long)]
    dir: PathBuf,
    /// Host name or IP address; may be given several times. A server's default is its NAME.
    #[arg(long = "san")]
    sans: Vec<String>,
    /// Days until it ends.
    #[arg(long, default_value_t = IssueOptions::default().days)]
    days: u32,
}

impl Issue {
    fn run(self, role: Role, csr: Option<PathBuf>) -> Result<()> {
        let options = IssueOptions { sans: self.sans, days: self.days };
        let authority = Authority::open(&self.dir)?;
        let identity = match csr {
            Some(request) => authority.enrol_device(&self.name, &request, &options)?,
            None => authority.issue(role, &self.name, &options)?,
        };
        announce(&identity);
        Ok(())
    }
}

fn announce(identity: &Identity) {
    println!("{} {}: {}", identity.role, identity.name, identity.certificate.display());
    for path in [&identity.key, &identity.bundle].into_iter().filter(|path| path.exists()) {
        println!("  {} (secret)", path.display());
    }
    println!("  to be trusted with {}", identity.authority.display());
}

fn main() -> ExitCode {
    let Picket::Pki(command) = Picket::parse();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with the whole chain: the reader is an operator, not a debugger.
            eprintln!("picket: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Pki) -> Result<()> {
    match command {
        Pki::Init { dir, days } => {
            let authority = Authority::init(&dir, days)?;
            println!("authority: {}", authority.certificate().display());
            println!("  {} (secret: it signs every certificate)", dir.join("ca.key").display());
            Ok(())
        }
        Pki::Server(issue) => issue.run(Role::Server, None),
        Pki::Broker(issue) => issue.run(Role::Broker, None),
        Pki::Admin(issue) => issue.run(Role::Admin, None),
        Pki::Aggregator(issue) => issue.run(Role::Aggregator, None),
        Pki::Device { issue, csr } => issue.run(Role::Device, csr),
        Pki::Show { file } => {
            println!("{}", Description::read(&file)?);
            Ok(())
        }
    }
}
