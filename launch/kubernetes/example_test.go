package kubernetes_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/launch/kubernetes"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// The program runs in a pod, and the downward API gives it POD_NAME, POD_UID, POD_IP and
// POD_NAMESPACE. It calls forkspawn.Register and forkspawn.Init first, as with children of
// this machine.
func Example() {
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	config.QPS, config.Burst = 50, 100 // the default of 5 starts one child in a second
	clientset, err := client.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	spawner, err := forkspawn.New(forkspawn.Config{Listen: transport.Addr{
		Scheme: transport.SchemeTLS, Target: net.JoinHostPort(os.Getenv("POD_IP"), "0")}})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	pods := &kubernetes.Launcher{
		Client: clientset, Namespace: os.Getenv("POD_NAMESPACE"),
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "main", Image: "registry.example/program:1"}},
		}},
		Owner: &metav1.OwnerReference{APIVersion: "v1", Kind: "Pod",
			Name: os.Getenv("POD_NAME"), UID: types.UID(os.Getenv("POD_UID"))},
	}
	child, err := spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "upper"},
		forkspawn.WithCommand(forkspawn.Command{Launcher: pods}))
	if err != nil {
		log.Fatal(err) // a *kubernetes.Error in it has the cluster's words
	}
	fmt.Println(child.Stop(context.Background()))
}
