package database

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"time"

	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

// image is what a container of a server is made of. The zero image means that there is none.
type image struct {
	variable, name string // the environment variable that names another image than name
	port           string
	command        []string
	environment    map[string]string
}

// bound is the port of the server as one of 127.0.0.1, which stays the same when the container starts again.
func (i *image) bound(port int) network.PortMap {
	return network.PortMap{network.MustParsePort(i.port): {{HostIP: netip.AddrFrom4([4]byte{127, 0, 0, 1}), HostPort: strconv.Itoa(port)}}}
}

// container is a server in a container. Its port is on 127.0.0.1, so the engine is one of this machine.
type container struct {
	docker *testcontainers.DockerContainer
}

// contain makes a container for a server that is missing otherwise, and does not start it.
func contain(p *program, port int, missing error) (*container, error) {
	if p.image.name == "" {
		return nil, missing
	}
	const fetching = 10 * time.Minute // the image may have to come from a registry
	ctx, cancel := context.WithTimeout(context.Background(), fetching)
	defer cancel()
	if err := dockerAnswers(ctx); err != nil {
		return nil, fmt.Errorf("%w; or start a Docker engine, for a container (%v)", missing, err) //nolint:errorlint // the engine's error is for the reader
	}
	name := p.image.name
	if other := os.Getenv(p.image.variable); other != "" {
		name = other
	}
	made, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{ContainerRequest: testcontainers.ContainerRequest{
		Image: name, Env: p.image.environment, Cmd: p.image.command, ExposedPorts: []string{p.image.port},
		HostConfigModifier: func(c *dockercontainer.HostConfig) { c.PortBindings = p.image.bound(port) },
	}})
	docker, _ := made.(*testcontainers.DockerContainer)
	c := &container{docker}
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("container of %s: %w; where no registry can be reached, scripts/database-image makes an image, %s names it, and "+
			"TESTCONTAINERS_RYUK_DISABLED=true does without the cleaning container", name, err, p.image.variable)
	}
	return c, nil
}

func dockerAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) //nolint:mnd // it is on this machine
	defer cancel()
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return err
	}
	defer provider.Close()
	return provider.Health(ctx)
}

func (c *container) launch() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.docker.Start(ctx)
}

func (c *container) ended() <-chan struct{} { return nil }

func (c *container) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	engine, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return // it has ended with the engine
	}
	defer engine.Close()
	_, _ = engine.ContainerKill(ctx, c.docker.GetContainerID(), client.ContainerKillOptions{Signal: "SIGKILL"}) // it may have ended
	for ctx.Err() == nil {
		if state, err := c.docker.State(ctx); err != nil || !state.Running {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (c *container) stop() { _ = testcontainers.TerminateContainer(c.docker) } // what it leaves the engine shows

func (c *container) pid() int {
	state, err := c.docker.State(context.Background())
	if err != nil {
		return 0
	}
	return state.Pid
}

func (c *container) log() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	text, err := c.docker.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer text.Close()
	all, _ := io.ReadAll(text) // it is only for the error's reader
	const most = 2000
	return string(all[max(0, len(all)-most):])
}
