package rabbit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/wait"
)

// A container is what a Node of KindContainer adds.
type container struct {
	docker *testcontainers.DockerContainer
}

func dockerAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return err
	}
	return provider.Health(ctx)
}

func startContainer(ctx context.Context, options Options) (*Node, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, options.Timeout, fmt.Errorf("no answer in %v", options.Timeout))
	defer cancel()
	docker, err := testcontainers.Run(ctx, options.Image,
		testcontainers.WithExposedPorts("5672/tcp"),
		testcontainers.WithWaitStrategyAndDeadline(options.Timeout, wait.ForLog("Server startup complete")),
	)
	c := &container{docker: docker}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("rabbit: start container of %s: %w; where no registry can be reached, "+
			"scripts/rabbitmq-image makes an image, HAREBUS_RABBITMQ_IMAGE names it, and TESTCONTAINERS_RYUK_DISABLED=true "+
			"does without the cleaning container", options.Image, err), c.close())
	}
	address, err := docker.PortEndpoint(ctx, "5672/tcp", "")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("rabbit: start container of %s: %w", options.Image, err), c.close())
	}
	node := &Node{kind: KindContainer, url: "amqp://guest:guest@" + address + "/", container: c}
	err = await(ctx, nil, 100*time.Millisecond, func(ctx context.Context) (err error) {
		node.version, err = probe(ctx, node.url)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("rabbit: start container of %s at %s: %w", options.Image, address, err), c.close())
	}
	return node, nil
}

func (c *container) ctl(ctx context.Context, args ...string) (string, error) {
	code, output, err := c.docker.Exec(ctx, append([]string{"rabbitmqctl", "--quiet"}, args...), exec.Multiplexed())
	if err != nil {
		return "", fmt.Errorf("rabbit: rabbitmqctl %s: %w", strings.Join(args, " "), err)
	}
	text, err := io.ReadAll(output)
	if err != nil {
		return "", fmt.Errorf("rabbit: rabbitmqctl %s: %w", strings.Join(args, " "), err)
	}
	if code != 0 {
		return "", fmt.Errorf("rabbit: rabbitmqctl %s: exit status %d: %s", strings.Join(args, " "), code, text)
	}
	return string(text), nil
}

func (c *container) close() error {
	if err := testcontainers.TerminateContainer(c.docker); err != nil {
		return fmt.Errorf("rabbit: remove container: %w", err)
	}
	return nil
}
