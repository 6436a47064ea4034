//! The stack inside the test's own process, for applications that no command of `bywash` is: those that close first, late
//! or not at all. Same driver, same runtime.

use bywash::config::StackConfig;
use bywash::runtime::net::{TcpListener, TcpStream};
use bywash::runtime::{BoxError, Context, Runtime, spawn};
use bywash_afxdp::{AttachOptions, QueueOptions};

use super::{Bed, STACK4, STACK6};

/// Starts the stack on every queue; `serve` gets each connection to one of the `ports`, with its port.
pub fn serve<F, Fut>(bed: &Bed, queues: u32, ports: &'static [u16], serve: F) -> Runtime
where
    F: Fn(u16, TcpStream) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = std::io::Result<()>> + 'static,
{
    start(bed, queues, move |context| {
        let serve = serve.clone();
        async move {
            for &port in ports {
                let listener = TcpListener::bind(([0, 0, 0, 0], port).into())?;
                let serve = serve.clone();
                spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        spawn(serve(port, stream)).detach();
                    }
                })
                .detach();
            }
            context.shutdown().await;
            Ok(())
        }
    })
}

/// Starts the stack on every queue and runs `app` on each.
pub fn start<F, Fut>(bed: &Bed, queues: u32, app: F) -> Runtime
where
    F: Fn(Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), BoxError>> + 'static,
{
    let addresses = [format!("{STACK4}/24"), format!("{STACK6}/64")];
    let addresses = addresses.iter().map(|cidr| cidr.parse().expect("an address")).collect();
    // Threads start in the namespace of the thread that makes them.
    bed.pair.stack.run(move || {
        let nic = bed.pair.nic().expect("look at the interface");
        let steer = nic.attach(&AttachOptions::default()).expect("attach");
        let mut builder = Runtime::builder(StackConfig::new(addresses, [7; 32]));
        for queue in 0..queues {
            let opener = steer.queue(queue, &QueueOptions::default()).expect("a queue");
            builder = builder.queue(move || opener.open());
        }
        builder.start(app).expect("start the runtime")
    })
}
