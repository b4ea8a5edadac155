// Command control is a whole tailnet's middle on one address: coordination server, DERP relay and STUN.
//
// It is Tailscale's own test control server with everything approved: whatever routes a node advertises are its
// routes at once, as an administrator's click would do. With -dns it hands out a resolver and search domain, which
// nodes take that accept DNS.
package main

import (
	"crypto/tls"
	"flag"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/dnstype"
	"tailscale.com/types/key"
)

const (
	controlPort = "8080"
	derpPort    = 3340
	stunPort    = 3478
)

func main() {
	ip := flag.String("ip", "127.0.0.1", "address to serve on")
	dns := flag.String("dns", "", "resolver that nodes get which accept DNS")
	flag.Parse()
	if err := serveDERP(*ip); err != nil {
		log.Fatalf("serve derp: %v", err)
	}
	if err := serveSTUN(*ip); err != nil {
		log.Fatalf("serve stun: %v", err)
	}
	server := &testcontrol.Server{
		ExplicitBaseURL:  "http://" + net.JoinHostPort(*ip, controlPort),
		AllOnline:        true,
		AllNodesSameUser: true,
		DERPMap: &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: {
			RegionID: 1, RegionCode: "lab",
			Nodes: []*tailcfg.DERPNode{{
				Name: "lab1", RegionID: 1, HostName: *ip, IPv4: *ip, IPv6: "none",
				STUNPort: stunPort, DERPPort: derpPort, InsecureForTests: true, STUNTestIP: *ip,
			}},
		}}},
	}
	if *dns != "" {
		server.DNSConfig = &tailcfg.DNSConfig{
			Resolvers: []*dnstype.Resolver{{Addr: *dns}},
			Domains:   []string{"tailnet.example"},
			Proxied:   true,
		}
	}
	go approveRoutes(server)
	log.Fatal(http.ListenAndServe(net.JoinHostPort(*ip, controlPort), server))
}

func serveDERP(ip string) error {
	derp := derpserver.New(key.NewNode(), log.Printf)
	listener, err := net.Listen("tcp", net.JoinHostPort(ip, "3340"))
	if err != nil {
		return err
	}
	// Borrowed for its certificate; nodes are told not to check it.
	server := httptest.NewUnstartedServer(derpserver.Handler(derp))
	server.Listener.Close()
	server.Listener = listener
	// DERP upgrades the connection, which HTTP/2 cannot.
	server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	server.StartTLS()
	return nil
}

func serveSTUN(ip string) error {
	socket, err := net.ListenPacket("udp4", net.JoinHostPort(ip, "3478"))
	if err != nil {
		return err
	}
	go func() {
		packet := make([]byte, 2048)
		for {
			n, from, err := socket.ReadFrom(packet)
			if err != nil {
				log.Fatalf("serve stun: %v", err)
			}
			id, err := stun.ParseBindingRequest(packet[:n])
			if err != nil {
				continue
			}
			socket.WriteTo(stun.Response(id, from.(*net.UDPAddr).AddrPort()), from)
		}
	}()
	return nil
}

func approveRoutes(server *testcontrol.Server) {
	approved := map[key.NodePublic][]netip.Prefix{}
	for range time.Tick(200 * time.Millisecond) {
		for _, node := range server.AllNodes() {
			if !node.Hostinfo.Valid() {
				continue
			}
			routes := node.Hostinfo.RoutableIPs().AsSlice()
			if !slices.Equal(approved[node.Key], routes) {
				approved[node.Key] = routes
				server.SetSubnetRoutes(node.Key, routes)
			}
		}
	}
}
