package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// startOrthanc starts an Orthanc as it is shipped, with its DICOMweb plugin:
// SyncStorageArea is its default, so it syncs each file; its SQLite index
// runs without a sync at each commit.
func startOrthanc(ctx context.Context, dir string) (p *process, url string, dimse int, err error) {
	web, err := freePort()
	if err != nil {
		return nil, "", 0, err
	}
	return startOrthancAt(ctx, dir, web, "")
}

// startOrthancAt starts one that knows another by the name "there".
func startOrthancAt(ctx context.Context, dir string, web int, there string) (p *process, url string, dimse int, err error) {
	program, err := exec.LookPath("Orthanc")
	if err != nil {
		return nil, "", 0, errAbsent
	}
	var plugin string
	for _, pattern := range []string{"/usr/share/orthanc/plugins/libOrthancDicomWeb.so", "/usr/lib/orthanc/libOrthancDicomWeb.so*", "/usr/lib/*/orthanc/libOrthancDicomWeb.so*"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			plugin = found[0]
			break
		}
	}
	if plugin == "" {
		return nil, "", 0, errAbsent
	}
	if dimse, err = freePort(); err != nil {
		return nil, "", 0, err
	}
	peers, servers := map[string]any{}, map[string]any{}
	if there != "" {
		peers["there"], servers["there"] = []string{there + "/"}, []string{there + "/dicom-web/"}
	}
	config, err := json.Marshal(map[string]any{
		"Name": "bench", "StorageDirectory": filepath.Join(dir, "storage"), "IndexDirectory": filepath.Join(dir, "storage"),
		"HttpPort": web, "RemoteAccessAllowed": false, "AuthenticationEnabled": false,
		"DicomServerEnabled": true, "DicomPort": dimse, "DicomAet": "ORTHANC", "DicomCheckCalledAet": false, "DicomAlwaysAllowStore": true,
		"Plugins": []string{plugin}, "DicomWeb": map[string]any{"Enable": true, "Root": "/dicom-web/", "Servers": servers}, "OrthancPeers": peers,
	})
	if err != nil {
		return nil, "", 0, err
	}
	path := filepath.Join(dir, "orthanc.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return nil, "", 0, err
	}
	url = fmt.Sprintf("http://127.0.0.1:%d", web)
	p, err = launch(ctx, "Orthanc", url+"/system", nil, program, path)
	return p, url, dimse, err
}

func openOrthancSTOW(ctx context.Context, dir string) (store, error) {
	p, url, _, err := startOrthanc(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &stow{p, url + "/dicom-web/studies", newClient()}, nil
}

// cstore is an Orthanc stored to by DCMTK's storescu.
type cstore struct {
	*process
	program string
	port    int
}

func openOrthancCStore(ctx context.Context, dir string) (store, error) {
	program, err := exec.LookPath("storescu")
	if err != nil {
		return nil, errAbsent
	}
	p, _, port, err := startOrthanc(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &cstore{p, program, port}, nil
}

func (c *cstore) put(ctx context.Context, files []string) error {
	return run(ctx, nil, c.program, append([]string{"-aec", "ORTHANC", "127.0.0.1", strconv.Itoa(c.port)}, files...)...)
}

func (c *cstore) close() error { return c.stop() }

// kubo is an IPFS node that talks to nobody.
type kubo struct {
	*process
	program string
	env     []string
}

func openKubo(ctx context.Context, dir string) (store, error) {
	program, err := findKubo()
	if err != nil {
		return nil, err
	}
	return startKubo(ctx, program, dir, "[]", "--offline")
}

// startKubo starts a node that listens at swarm, a JSON list, and knows nobody.
func startKubo(ctx context.Context, program, dir, swarm string, how ...string) (*kubo, error) {
	k := &kubo{program: program, env: []string{"IPFS_PATH=" + filepath.Join(dir, "ipfs")}}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"init", "--empty-repo"},
		{"config", "Addresses.API", fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port)},
		{"config", "--json", "Addresses.Gateway", "[]"},
		{"config", "--json", "Addresses.Swarm", swarm},
		{"config", "--json", "AutoConf.Enabled", "false"},
		{"config", "--json", "Discovery.MDNS.Enabled", "false"},
		{"config", "--json", "Bootstrap", "[]"},
		{"config", "--json", "DNS.Resolvers", "{}"},
		{"config", "--json", "Routing.DelegatedRouters", "[]"},
		{"config", "--json", "Ipns.DelegatedPublishers", "[]"},
		{"config", "Routing.Type", "none"},
	} {
		if err := run(ctx, k.env, program, args...); err != nil {
			return nil, err
		}
	}
	k.process, err = launch(ctx, "ipfs", fmt.Sprintf("http://127.0.0.1:%d/", port), k.env, program, append([]string{"daemon"}, how...)...)
	return k, err
}

// findKubo finds ipfs in $PRIORMESH_IPFS or in the path.
func findKubo() (string, error) {
	if path := os.Getenv("PRIORMESH_IPFS"); path != "" {
		return path, nil
	}
	path, err := exec.LookPath("ipfs")
	if err != nil {
		return "", errAbsent
	}
	return path, nil
}

func (k *kubo) put(ctx context.Context, files []string) error {
	return run(ctx, k.env, k.program, append([]string{"add", "-q", "--progress=false"}, files...)...)
}

func (k *kubo) close() error { return k.stop() }
