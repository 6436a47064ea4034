/*
 * lwIP under test: Debian's liblwip driven by one thread. lwip_init() instead of tcpip_init() leaves its thread off; frames
 * go in by the netif's input and out by its linkoutput, TCP's timers are called by the bench's clock. The server is written
 * on the raw callback interface, lwIP's fastest. Received frames lie in RAM pbufs (Debian's PBUF_POOL has elements
 * that are smaller than it believes) and sent ones are taken by reference.
 */
#include <lwip/etharp.h>
#include <lwip/init.h>
#include <lwip/netif.h>
#include <lwip/tcp.h>
#include <lwip/priv/tcp_priv.h>
#include <netif/ethernet.h>
#include <stdint.h>
#include <string.h>

enum app { IDLE, SINK, SOURCE, ECHO, CLOSE };

#define QUEUE 4096
#define CALL_BYTES 16384

static struct netif netif;
static struct tcp_pcb *listener, *source;
static enum app app;
static struct pbuf *rx[QUEUE], *tx[QUEUE];
static unsigned rx_len, tx_len;
static uint64_t bytes_read, ticks, lost;
static uint8_t buffer[CALL_BYTES];

static err_t link_output(struct netif *out, struct pbuf *p)
{
    (void)out;
    if (tx_len == QUEUE) {
        lost++;
        return ERR_MEM;
    }
    pbuf_ref(p);
    tx[tx_len++] = p;
    return ERR_OK;
}

static err_t netif_begin(struct netif *it)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    it->name[0] = 'b';
    it->name[1] = 'w';
    it->mtu = 1500;
    it->hwaddr_len = 6;
    memcpy(it->hwaddr, mac, 6);
    it->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_LINK_UP;
    it->output = etharp_output;
    it->linkoutput = link_output;
    return ERR_OK;
}

static void fill(struct tcp_pcb *pcb)
{
    u16_t room;
    while ((room = tcp_sndbuf(pcb)) > 0) {
        u16_t len = room < CALL_BYTES ? room : CALL_BYTES;
        if (tcp_write(pcb, buffer, len, TCP_WRITE_FLAG_COPY) != ERR_OK)
            break;
    }
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len)
{
    (void)arg;
    (void)len;
    fill(pcb);
    return ERR_OK;
}

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
    u16_t at = 0;
    (void)arg;
    (void)err;
    if (p == NULL)
        return app == CLOSE ? tcp_close(pcb) : ERR_OK;
    while (at < p->tot_len) {
        u16_t len = pbuf_copy_partial(p, buffer, CALL_BYTES, at);
        at += len;
        if (app == ECHO)
            tcp_write(pcb, buffer, len, TCP_WRITE_FLAG_COPY);
    }
    bytes_read += at;
    tcp_recved(pcb, at);
    pbuf_free(p);
    return ERR_OK;
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
    (void)arg;
    if (err != ERR_OK || pcb == NULL)
        return ERR_VAL;
    tcp_nagle_disable(pcb);
    tcp_recv(pcb, on_recv);
    if (app == SOURCE) {
        source = pcb;
        tcp_sent(pcb, on_sent);
    }
    return ERR_OK;
}

/* Begins afresh: ends every connection, listens again. Returns 0 when it cannot listen. */
int lwip_bench_begin(int what, uint32_t addr, uint32_t mask)
{
    static int initialised;
    if (!initialised) {
        ip4_addr_t ip = {addr}, net = {mask}, none = {0};
        lwip_init();
        netif_add(&netif, &ip, &net, &none, NULL, netif_begin, ethernet_input);
        netif_set_default(&netif);
        netif_set_up(&netif);
        initialised = 1;
    }
    while (tcp_active_pcbs != NULL)
        tcp_abort(tcp_active_pcbs);
    while (tcp_tw_pcbs != NULL)
        tcp_abort(tcp_tw_pcbs);
    if (listener != NULL)
        tcp_close(listener);
    while (tx_len > 0)
        pbuf_free(tx[--tx_len]);
    while (rx_len > 0)
        pbuf_free(rx[--rx_len]);
    app = (enum app)what;
    source = NULL;
    bytes_read = 0;
    ticks = 0;
    memset(buffer, 7, sizeof buffer);
    listener = tcp_new();
    if (listener == NULL || tcp_bind(listener, IP_ANY_TYPE, 80) != ERR_OK)
        return 0;
    listener = tcp_listen(listener);
    tcp_accept(listener, on_accept);
    return 1;
}

/* A frame arrives: not measured. Returns 0 when there is no room. */
int lwip_bench_arrive(const uint8_t *frame, uint16_t len)
{
    struct pbuf *p = rx_len < QUEUE ? pbuf_alloc(PBUF_RAW, len, PBUF_RAM) : NULL;
    if (p == NULL)
        return 0;
    pbuf_take(p, frame, len);
    rx[rx_len++] = p;
    return 1;
}

/* One turn at `micros`: measured. TCP's timers tick every 250 ms. */
void lwip_bench_work(uint64_t micros)
{
    unsigned i;
    if (ticks == 0 || micros / 250000 > ticks + 10)
        ticks = micros / 250000;
    for (i = 0; i < rx_len; i++)
        if (netif.input(rx[i], &netif) != ERR_OK)
            pbuf_free(rx[i]);
    rx_len = 0;
    if (source != NULL && source->unsent == NULL && source->unacked == NULL) {
        fill(source);
        tcp_output(source);
    }
    for (; ticks < micros / 250000; ticks++)
        tcp_tmr();
}

/* Takes the frame sent at place `at` into `frame` (1514 bytes); returns its length, 0 behind the last one. Not measured. */
uint16_t lwip_bench_sent(unsigned at, uint8_t *frame)
{
    u16_t len;
    if (at >= tx_len) {
        tx_len = 0;
        return 0;
    }
    len = pbuf_copy_partial(tx[at], frame, 1514, 0);
    pbuf_free(tx[at]);
    return len;
}

uint64_t lwip_bench_bytes_read(void)
{
    return bytes_read;
}

uint64_t lwip_bench_lost(void)
{
    return lost;
}
